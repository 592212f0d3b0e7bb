//! Reads of several devices at once, each with its own deadline: a device that hangs costs its worker, never
//! another device its answer.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::read::ReadAt;

/// The most workers.
pub(crate) const MAX_WORKERS: usize = 8;

/// Tells the pool that a job is getting on.
#[derive(Debug, Default)]
pub(crate) struct Beat(AtomicU64);

impl Beat {
    fn tick(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A device whose every finished read is progress.
pub(crate) struct Watched<'a, R: ?Sized> {
    pub(crate) inner: &'a R,
    pub(crate) beat: &'a Beat,
}

impl<R: ReadAt + ?Sized> ReadAt for Watched<'_, R> {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn logical_sector(&self) -> u32 {
        self.inner.logical_sector()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let result = self.inner.read_exact_at(buf, offset);
        self.beat.tick();
        result
    }
}

/// How a job ended.
#[derive(Debug)]
pub(crate) enum Ended<R> {
    Done(R),
    /// No progress within the time; `true` in the flag as soon as the thread has come back.
    Stuck(Arc<AtomicBool>),
    /// The reader broke off.
    Panicked,
}

/// What the workers and the caller share.
struct Shared<J, R, W> {
    state: Mutex<State<J, R>>,
    finished: Condvar,
    work: W,
}

struct State<J, R> {
    queue: VecDeque<(usize, J)>,
    running: BTreeMap<usize, Arc<Worker>>,
    results: BTreeMap<usize, Ended<R>>,
    total: usize,
}

impl<J, R> State<J, R> {
    fn is_complete(&self) -> bool {
        self.results.len() >= self.total
    }
}

#[derive(Debug, Default)]
struct Worker {
    beat: Beat,
    given_up: AtomicBool,
    back: Arc<AtomicBool>,
}

/// Runs `work` on every job; a job without a [`Beat`] for `timeout` is given up. Results are in the order of
/// the jobs. `watch` is called now and then from the caller's own thread.
pub(crate) fn run<J, R, W>(
    jobs: Vec<J>,
    timeout: Duration,
    work: W,
    watch: &mut dyn FnMut(),
) -> Vec<Ended<R>>
where
    J: Send + 'static,
    R: Send + 'static,
    W: Fn(J, &Beat) -> R + Send + Sync + 'static,
{
    let total = jobs.len();
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            queue: jobs.into_iter().enumerate().collect(),
            running: BTreeMap::new(),
            results: BTreeMap::new(),
            total,
        }),
        finished: Condvar::new(),
        work,
    });
    let mut workers = 0;
    for _ in 0..total.min(MAX_WORKERS) {
        workers += usize::from(start(&shared));
    }
    let wake = (timeout / 4).clamp(Duration::from_millis(5), Duration::from_millis(200));
    let mut seen: BTreeMap<usize, (u64, Instant)> = BTreeMap::new();
    let mut state = lock(&shared.state);
    // Without one worker, for the system gives no thread, nothing is read and nothing is waited for.
    while !state.is_complete() && workers > 0 {
        let (woken, _) = shared
            .finished
            .wait_timeout(state, wake)
            .unwrap_or_else(PoisonError::into_inner);
        state = woken;
        for job in stuck(&state.running, &mut seen, timeout) {
            let Some(worker) = state.running.remove(&job) else {
                continue;
            };
            worker.given_up.store(true, Ordering::SeqCst);
            let back = Arc::clone(&worker.back);
            state.results.insert(job, Ended::Stuck(back));
            workers -= usize::from(!start(&shared));
        }
        drop(state);
        watch();
        state = lock(&shared.state);
    }
    state.queue.clear();
    (0..total)
        .map(|job| state.results.remove(&job).unwrap_or(Ended::Panicked))
        .collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts one worker; `false` when the system gives no thread.
fn start<J, R, W>(shared: &Arc<Shared<J, R, W>>) -> bool
where
    J: Send + 'static,
    R: Send + 'static,
    W: Fn(J, &Beat) -> R + Send + Sync + 'static,
{
    let shared = Arc::clone(shared);
    std::thread::Builder::new()
        .name("observe".to_owned())
        .spawn(move || {
            let worker = Arc::new(Worker::default());
            serve(&shared, &worker);
            worker.back.store(true, Ordering::SeqCst);
        })
        .is_ok()
}

fn serve<J, R, W: Fn(J, &Beat) -> R>(shared: &Shared<J, R, W>, worker: &Arc<Worker>) {
    let mut state = lock(&shared.state);
    while let Some((job, input)) = state.queue.pop_front() {
        worker.beat.tick();
        state.running.insert(job, Arc::clone(worker));
        drop(state);
        let result = catch_unwind(AssertUnwindSafe(|| (shared.work)(input, &worker.beat)));
        state = lock(&shared.state);
        if worker.given_up.load(Ordering::SeqCst) {
            return; // the answer comes too late, and another has taken this worker's place
        }
        state.running.remove(&job);
        let ended = result.map_or(Ended::Panicked, Ended::Done);
        state.results.insert(job, ended);
        if state.is_complete() {
            shared.finished.notify_all();
        }
    }
}

/// Jobs without progress for `timeout`; `seen` keeps the last count of each and since when it stands.
fn stuck(
    running: &BTreeMap<usize, Arc<Worker>>,
    seen: &mut BTreeMap<usize, (u64, Instant)>,
    timeout: Duration,
) -> Vec<usize> {
    let now = Instant::now();
    seen.retain(|job, _| running.contains_key(job));
    let mut stuck = Vec::new();
    for (job, worker) in running {
        let count = worker.beat.count();
        let (last, since) = seen.entry(*job).or_insert((count, now));
        if *last != count {
            (*last, *since) = (count, now);
        } else if now.duration_since(*since) >= timeout {
            stuck.push(*job);
        }
    }
    stuck
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn devices_that_hang_are_given_up_and_the_others_are_read() {
        let (release, gate) = channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let jobs: Vec<usize> = (0..40).collect();
        let begin = Instant::now();
        let results = run(
            jobs,
            Duration::from_millis(100),
            move |job, _| {
                // More hang than there are workers.
                if job < 10 {
                    gate.lock().unwrap().recv().ok();
                }
                job
            },
            &mut || {},
        );
        assert!(begin.elapsed() < Duration::from_secs(5));
        let mut backs = Vec::new();
        for (job, result) in results.into_iter().enumerate() {
            match result {
                Ended::Done(done) => assert_eq!((done, job >= 10), (job, true)),
                Ended::Stuck(back) => {
                    assert!(job < 10 && !back.load(Ordering::SeqCst));
                    backs.push(back);
                }
                Ended::Panicked => panic!("job {job}"),
            }
        }
        assert_eq!(backs.len(), 10);
        drop(release);
        let deadline = Instant::now() + Duration::from_secs(5);
        while !backs.iter().all(|back| back.load(Ordering::SeqCst)) {
            assert!(Instant::now() < deadline, "threads that come back say so");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_slow_device_that_gets_on_is_not_given_up() {
        let results = run(
            vec![()],
            Duration::from_millis(100),
            |(), beat| {
                for _ in 0..10 {
                    std::thread::sleep(Duration::from_millis(30));
                    beat.tick();
                }
            },
            &mut || {},
        );
        assert!(matches!(results[..], [Ended::Done(())]));
    }

    #[test]
    fn a_reader_that_breaks_off_costs_only_its_own_device() {
        let results = run(
            vec![1, 2, 3],
            Duration::from_secs(5),
            |job, _| {
                assert_ne!(job, 2, "a broken reader, on purpose");
                job
            },
            &mut || {},
        );
        assert!(matches!(
            results[..],
            [Ended::Done(1), Ended::Panicked, Ended::Done(3)]
        ));
    }
}
