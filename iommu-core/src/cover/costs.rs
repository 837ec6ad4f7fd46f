//! What invalidating costs, as far as it decides between covers.

/// What commands and what they throw away cost on one IOMMU, in nanoseconds.
///
/// Only the ratios matter. A kernel that knows its machine sets them for each unit
/// (`Unit::with_costs` of every backend); the defaults are good for an IOMMU in hardware. For an
/// emulated one, where a command is worth microseconds of the host's time, `command` is higher; for
/// devices with a large working set `tag_wide` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Costs {
    /// One command more in a list: writing it, and the hardware's time for it.
    pub command: u32,
    /// One page that is invalidated beyond the range: the chance that it is cached, times the walk
    /// that brings it back.
    pub excess_page: u32,
    /// Forgetting everything under a tag: the one command, and the walks that refill the cache.
    pub tag_wide: u32,
    /// The most commands that one cache gets for one range; values below 2 count as 2. It bounds
    /// the list, not the choice: the other three already do so by
    /// [`tag_wide`](Self::tag_wide) / [`command`](Self::command).
    pub most_commands: u32,
}

impl Costs {
    /// A command takes 50 ns, and a walk 600 ns. One page in thirty beyond the range is worth a
    /// walk, which makes 20 ns a page. Under a tag five translations are worth a walk, which makes
    /// 3.2 µs, the price of 64 commands; break-even lies at twelve pages for each live translation,
    /// so a cache with forty of them wants a threshold near 512.
    ///
    /// The times are assumptions of a model, not measurements.
    pub const DEFAULT: Self = Self {
        command: 50,
        excess_page: 20,
        tag_wide: 3_200,
        most_commands: 64,
    };

    /// The same costs for a list of `room` commands that `caches` share, so that the list fits as
    /// long as each can have two.
    #[must_use]
    pub fn shared(self, room: usize, caches: usize) -> Self {
        let share = u32::try_from(room / caches.max(1)).unwrap_or(u32::MAX);
        Self {
            most_commands: self.bound().min(share),
            ..self
        }
    }

    /// Whether `commands` without any excess cost at most what a tag-wide invalidation does.
    pub fn allow(&self, commands: u64) -> bool {
        commands <= self.bound().into() && self.of(commands, 0) <= self.tag_wide.into()
    }

    /// What `commands` that take `excess` pages too many cost.
    pub(super) fn of(&self, commands: u64, excess: u64) -> u64 {
        let of_commands = commands.saturating_mul(self.command.into());
        of_commands.saturating_add(excess.saturating_mul(self.excess_page.into()))
    }

    /// [`most_commands`](Self::most_commands), as it counts.
    pub(super) fn bound(&self) -> u32 {
        self.most_commands.max(2)
    }
}

impl Default for Costs {
    /// [`Costs::DEFAULT`].
    fn default() -> Self {
        Self::DEFAULT
    }
}
