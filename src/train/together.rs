//! Several models at the same time: each on a thread of its own, with its share of the processor's threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};

/// Calls `work(i)` for every `i < count`: `at_once` of them at a time, begun in order, results in order. Several at a time divide
/// the threads of the current rayon pool among them; a single one keeps that pool.
///
/// # Errors
/// In the place of a result, what `work` says, or [`Error::Device`] where threads could not be started.
pub fn together<T: Send>(count: usize, at_once: usize, work: impl Fn(usize) -> Result<T> + Sync) -> Vec<Result<T>> {
    let lanes = at_once.clamp(1, count.max(1));
    if lanes == 1 {
        return (0..count).map(work).collect();
    }
    let (threads, next) = (rayon::current_num_threads(), AtomicUsize::new(0));
    let results: Vec<Mutex<Option<Result<T>>>> = (0..count).map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(slot) = results.get(i) else { return };
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(share(threads, lanes.min(count - i), i));
                    let result = match pool.build() {
                        Ok(pool) => pool.install(|| work(i)),
                        Err(error) => Err(Error::Device(format!("cannot start threads for a model: {error}"))),
                    };
                    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
                }
            });
        }
    });
    let taken = |slot: Mutex<Option<Result<T>>>| slot.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_iter().map(|slot| taken(slot).expect("every number was handed out")).collect()
}

/// Threads of number `i` when `lanes` divide `threads`: all are used, and each has at least one.
fn share(threads: usize, lanes: usize, i: usize) -> usize {
    (threads / lanes + usize::from(i % lanes < threads % lanes)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn as_many_as_asked_for_run_at_the_same_time_and_results_are_in_order() {
        // Two that wait for each other end only if both run.
        let meet = Barrier::new(2);
        let results = together(4, 2, |i| {
            meet.wait();
            if i == 2 { Err(Error::Interrupted("stopped".into())) } else { Ok(10 * i) }
        });
        let values: Vec<_> = results.iter().map(|r| r.as_ref().ok().copied()).collect();
        assert_eq!(values, [Some(0), Some(10), None, Some(30)]);
        assert!(together(0, 3, Ok).is_empty());
    }
    #[test]
    fn threads_are_divided_and_a_single_model_has_them_all() {
        assert_eq!([0, 1, 2].map(|i| share(8, 3, i)), [3, 3, 2]);
        assert_eq!([0, 1, 2].map(|i| share(2, 3, i)), [1, 1, 1]);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        let seen = |count, at_once| {
            let threads = together(count, at_once, |_| Ok(rayon::current_num_threads()));
            threads.into_iter().map(Result::unwrap).collect::<Vec<_>>()
        };
        assert_eq!(pool.install(|| seen(3, 1)), [4, 4, 4]);
        // The last of three has nobody beside it for long.
        assert_eq!(pool.install(|| seen(3, 2)), [2, 2, 4]);
    }
}
