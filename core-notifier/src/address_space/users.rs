//! One notifier for each kind, however many use it.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::{Any, TypeId};
use core::mem;

use super::{AddressSpace, AddressSpaceLock};
use crate::error::{GetError, RegisterError, UnregisterError};
use crate::notifier::Notifier;
use crate::planted::{self, Fault};
use crate::primitive::Mutex;
use crate::srcu::Mode;

impl<M: Mode> AddressSpace<M> {
    /// Gets the notifier of type `T` of this address space, for one more user: the one that there
    /// is, or else the one that `make` makes, which is registered first.
    ///
    /// `lock` is held all the time, also while `make` runs, as in Linux; the conditions are those of
    /// [`register`](AddressSpace::register). Every user calls [`put`](AddressSpace::put) once.
    ///
    /// # Errors
    ///
    /// [`GetError`]; nothing has changed, and what was made has been dropped.
    pub fn get<T: Notifier + 'static>(
        &self,
        lock: &impl AddressSpaceLock,
        make: impl FnOnce() -> Arc<T>,
    ) -> Result<Arc<T>, GetError> {
        let _locked = lock.lock();
        self.get_locked(make)
    }

    /// As [`get`](AddressSpace::get), for a caller who already holds what [`AddressSpaceLock`]
    /// describes.
    ///
    /// # Errors
    ///
    /// [`GetError`]; nothing has changed, and what was made has been dropped.
    pub fn get_locked<T: Notifier + 'static>(
        &self,
        make: impl FnOnce() -> Arc<T>,
    ) -> Result<Arc<T>, GetError> {
        if self.subscriptions.is_released() {
            return Err(RegisterError::Released.into());
        }
        if let Some(notifier) = self.users.count_one_more()? {
            return Ok(notifier);
        }
        let notifier = make();
        self.register_locked(notifier.clone())?;
        self.users.begin(&notifier);
        Ok(notifier)
    }

    /// One user less. The last one ends the subscription without waiting and without a call of
    /// [`Notifier::release`]; the address space's reference is dropped after a grace period.
    ///
    /// The caller has dropped what it kept of the address space and prevented that anything comes
    /// back, and drops its own reference afterwards: the notifier may be called until the grace
    /// period is over. Its destructor then runs wherever the last reference goes, usually in a
    /// callback of the domain ([`Srcu::call`](crate::Srcu::call)), and must not sleep.
    /// [`barrier`](AddressSpace::barrier) waits for it. Legal inside callbacks, `release` included,
    /// where allocating is legal.
    ///
    /// # Errors
    ///
    /// [`UnregisterError::NotRegistered`] if no user is left, or `notifier` did not come from
    /// [`get`](AddressSpace::get) of this address space; nothing has changed.
    pub fn put<T: Notifier + 'static>(&self, notifier: &Arc<T>) -> Result<(), UnregisterError> {
        let Some(last) = self.users.count_one_less(notifier)? else {
            return Ok(());
        };
        let subscribed: Arc<dyn Notifier> = notifier.clone();
        if planted::is(Fault::PutWithoutUnregister) {
            return Ok(());
        }
        self.unregister_no_release(&subscribed)?;
        drop(last);
        Ok(())
    }
}

/// The notifiers that are counted.
pub(super) struct Users(Mutex<Vec<User>>);

/// One notifier and the number of its users, at least one.
struct User {
    kind: TypeId,
    notifier: Arc<dyn Any + Send + Sync>,
    count: u32,
}

impl Users {
    pub(super) fn new() -> Self {
        Users(Mutex::new(Vec::new()))
    }

    /// Counts one more user of the notifier of type `T`, if there is one.
    fn count_one_more<T: Notifier + 'static>(&self) -> Result<Option<Arc<T>>, GetError> {
        let mut users = self.0.lock();
        let Some(user) = users.iter_mut().find(|user| user.kind == TypeId::of::<T>()) else {
            return Ok(None);
        };
        user.count = user.count.checked_add(1).ok_or(GetError::TooManyUsers)?;
        Ok(user.notifier.clone().downcast().ok())
    }

    /// Counts the first user of `notifier`. Who calls this excludes others of the same type.
    fn begin<T: Notifier + 'static>(&self, notifier: &Arc<T>) {
        let user = User {
            kind: TypeId::of::<T>(),
            notifier: notifier.clone(),
            count: 1,
        };
        // Allocated and freed outside the lock. Only the kernel's lock, which the caller holds, lets
        // the number of users rise.
        let mut grown = Vec::with_capacity(self.0.lock().len() + 1);
        let mut users = self.0.lock();
        grown.append(&mut users);
        grown.push(user);
        let outgrown = mem::replace(&mut *users, grown);
        drop(users);
        drop(outgrown);
    }

    /// Counts one user less of `notifier`, and returns the reference that was kept for them if that
    /// was the last.
    fn count_one_less<T: Notifier + 'static>(
        &self,
        notifier: &Arc<T>,
    ) -> Result<Option<Arc<dyn Any + Send + Sync>>, UnregisterError> {
        let mut users = self.0.lock();
        let place = users
            .iter()
            .position(|user| core::ptr::addr_eq(Arc::as_ptr(&user.notifier), Arc::as_ptr(notifier)))
            .ok_or(UnregisterError::NotRegistered)?;
        users[place].count -= 1;
        let is_last = users[place].count == 0 || planted::is(Fault::FirstPutEnds);
        Ok(is_last.then(|| users.swap_remove(place).notifier))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::Srcu;

    struct Silent;
    impl Notifier for Silent {}

    #[test]
    fn n17_too_many_users_are_an_error() {
        let space = AddressSpace::new(Arc::new(Srcu::new()));
        let made = space.get_locked(|| Arc::new(Silent)).unwrap();
        space.users.0.lock()[0].count = u32::MAX - 1;
        let again = space.get_locked(|| -> Arc<Silent> { panic!("there is one") });
        assert!(Arc::ptr_eq(&made, &again.unwrap()));
        let refused = space.get_locked(|| -> Arc<Silent> { panic!("there is one") });
        assert_eq!(refused.err(), Some(GetError::TooManyUsers));
        assert_eq!(space.users.0.lock()[0].count, u32::MAX);
        // One less makes room for one more.
        space.put(&made).unwrap();
        assert!(space.get_locked(|| Arc::new(Silent)).is_ok());
    }
}
