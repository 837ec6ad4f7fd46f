//! Threads that wait to be given work.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use crate::cpu;

type Job<S> = Box<dyn FnOnce(&mut S) + Send>;

/// Threads with a state of their own each, which never leaves its thread.
pub struct Crew<S> {
    members: Vec<Sender<Job<S>>>,
}

impl<S: 'static> Crew<S> {
    /// Starts `size` threads; each makes its state by `make`.
    pub fn start(size: usize, make: impl Fn() -> S + Clone + Send + 'static) -> Self {
        let member = |_| {
            let (sender, jobs): (_, Receiver<Job<S>>) = channel();
            let make = make.clone();
            thread::spawn(move || {
                cpu::bring_up();
                let mut state = make();
                for job in jobs {
                    job(&mut state);
                }
            });
            sender
        };
        Crew {
            members: (0..size).map(member).collect(),
        }
    }

    /// How many threads there are.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// Gives `job` to a member; the result comes out of the channel.
    pub fn give<R: Send + 'static>(
        &self,
        member: usize,
        job: impl FnOnce(&mut S) -> R + Send + 'static,
    ) -> Receiver<R> {
        let (result, receiver) = channel();
        let job = move |state: &mut S| {
            // Who gave the job may have lost interest.
            let _ = result.send(job(state));
        };
        self.members[member]
            .send(Box::new(job))
            .expect("members outlive the crew");
        receiver
    }
}
