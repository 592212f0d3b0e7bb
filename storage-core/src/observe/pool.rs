//! Reads of several devices at once, each with its own deadline: a device that hangs costs its worker, never
//! another device its answer.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
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

enum Message<R> {
    Started {
        job: usize,
        beat: Arc<Beat>,
        worker: Arc<Worker>,
    },
    Ended {
        job: usize,
        result: Option<R>,
    },
}

#[derive(Debug, Default)]
struct Worker {
    given_up: AtomicBool,
    back: Arc<AtomicBool>,
}

struct Running {
    beat: Arc<Beat>,
    worker: Arc<Worker>,
    count: u64,
    since: Instant,
}

type Queue<J> = Arc<Mutex<VecDeque<(usize, J)>>>;

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
    let work = Arc::new(work);
    let queue: Queue<J> = Arc::new(Mutex::new(jobs.into_iter().enumerate().collect()));
    let (sender, receiver) = channel();
    let mut lost = 0;
    for _ in 0..total.min(MAX_WORKERS) {
        lost += usize::from(!start(&queue, &work, &sender));
    }
    if lost > 0 && lost == total.min(MAX_WORKERS) {
        // Not one thread could be had: nothing was read.
        return (0..total).map(|_| Ended::Panicked).collect();
    }
    let replace = || start(&queue, &work, &sender);
    collect(total, timeout, &receiver, &replace, watch)
}

/// Starts one worker; `false` when the system gives no thread.
fn start<J, R, W>(queue: &Queue<J>, work: &Arc<W>, sender: &Sender<Message<R>>) -> bool
where
    J: Send + 'static,
    R: Send + 'static,
    W: Fn(J, &Beat) -> R + Send + Sync + 'static,
{
    let (queue, work, sender) = (Arc::clone(queue), Arc::clone(work), sender.clone());
    let body = move || {
        let worker = Arc::new(Worker::default());
        loop {
            let next = queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            let Some((job, input)) = next else { break };
            let beat = Arc::new(Beat::default());
            let started = Message::Started {
                job,
                beat: Arc::clone(&beat),
                worker: Arc::clone(&worker),
            };
            if sender.send(started).is_err() {
                break;
            }
            let result = catch_unwind(AssertUnwindSafe(|| work(input, &beat))).ok();
            let sent = sender.send(Message::Ended { job, result });
            if sent.is_err() || worker.given_up.load(Ordering::SeqCst) {
                break;
            }
        }
        worker.back.store(true, Ordering::SeqCst);
    };
    std::thread::Builder::new()
        .name("observe".to_owned())
        .spawn(body)
        .is_ok()
}

fn collect<R>(
    total: usize,
    timeout: Duration,
    receiver: &Receiver<Message<R>>,
    replace: &dyn Fn() -> bool,
    watch: &mut dyn FnMut(),
) -> Vec<Ended<R>> {
    let mut results: BTreeMap<usize, Ended<R>> = BTreeMap::new();
    let mut running: BTreeMap<usize, Running> = BTreeMap::new();
    let wake = (timeout / 4).clamp(Duration::from_millis(5), Duration::from_millis(200));
    let mut checked = Instant::now();
    let mut workers = total.min(MAX_WORKERS);
    while results.len() < total {
        match receiver.recv_timeout(wake) {
            Ok(Message::Started { job, beat, worker }) => {
                let (count, since) = (beat.count(), Instant::now());
                let entry = Running {
                    beat,
                    worker,
                    count,
                    since,
                };
                running.insert(job, entry);
            }
            Ok(Message::Ended { job, result }) => {
                running.remove(&job);
                results
                    .entry(job)
                    .or_insert(result.map_or(Ended::Panicked, Ended::Done));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if checked.elapsed() < wake {
            continue;
        }
        checked = Instant::now();
        watch();
        for job in stuck(&mut running, timeout) {
            if let Some(entry) = running.remove(&job) {
                entry.worker.given_up.store(true, Ordering::SeqCst);
                let back = Arc::clone(&entry.worker.back);
                results.entry(job).or_insert(Ended::Stuck(back));
                workers -= usize::from(!replace());
            }
        }
        if workers == 0 {
            break;
        }
    }
    (0..total)
        .map(|job| results.remove(&job).unwrap_or(Ended::Panicked))
        .collect()
}

/// Jobs without progress for `timeout`.
fn stuck(running: &mut BTreeMap<usize, Running>, timeout: Duration) -> Vec<usize> {
    let mut stuck = Vec::new();
    for (job, entry) in running {
        let count = entry.beat.count();
        if count != entry.count {
            entry.count = count;
            entry.since = Instant::now();
        } else if entry.since.elapsed() >= timeout {
            stuck.push(*job);
        }
    }
    stuck
}

#[cfg(test)]
mod tests {
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
