//! An executor for tests: nothing is polled unless it was woken, so a lost wake-up is a task that never ends.

use core::future::Future;
use core::pin::{Pin, pin};
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Wake;

/// Remembers that it was woken.
#[derive(Debug, Default)]
struct Flag {
    woken: AtomicBool,
}

impl Flag {
    fn raised() -> Arc<Self> {
        let flag = Arc::new(Self::default());
        flag.woken.store(true, Ordering::SeqCst);
        flag
    }

    fn take(&self) -> bool {
        self.woken.swap(false, Ordering::SeqCst)
    }

    fn is_up(&self) -> bool {
        self.woken.load(Ordering::SeqCst)
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
    }
}

/// More polls than anything here needs: whoever takes as many wakes itself and gets nowhere.
const TOO_MANY: usize = 1_000_000;

/// Runs a future that needs nobody else to its end.
///
/// # Panics
///
/// When it is pending and nothing woke it: it would wait for ever.
#[track_caller]
pub(crate) fn finish<F: Future>(future: F) -> F::Output {
    polls_to_finish(future).0
}

/// [`finish`], and how many polls it took.
#[track_caller]
pub(crate) fn polls_to_finish<F: Future>(future: F) -> (F::Output, usize) {
    let mut future = pin!(future);
    let flag = Flag::raised();
    let waker = Waker::from(Arc::clone(&flag));
    let mut polls = 0;
    while flag.take() {
        polls += 1;
        assert!(polls < TOO_MANY, "it wakes itself and gets nowhere");
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return (output, polls);
        }
    }
    panic!("stuck: pending after {polls} polls, and nothing will wake it");
}

/// Polls `future` at most `polls` times, each time only if it was woken, and drops it. True if it was done before.
pub(crate) fn drop_after<F: Future>(future: F, polls: usize) -> bool {
    let mut future = pin!(future);
    let flag = Flag::raised();
    let waker = Waker::from(Arc::clone(&flag));
    for _ in 0..polls {
        if !flag.take() {
            break;
        }
        if future
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_ready()
        {
            return true;
        }
    }
    false
}

/// The name of a task.
pub(crate) type Id = usize;

struct Task<'a, T> {
    future: Pin<Box<dyn Future<Output = T> + 'a>>,
    flag: Arc<Flag>,
}

/// Tasks that are polled one by one, in whatever order the test likes.
pub(crate) struct Poller<'a, T> {
    tasks: BTreeMap<Id, Task<'a, T>>,
    done: BTreeMap<Id, T>,
    next: Id,
}

impl<'a, T> Poller<'a, T> {
    pub(crate) fn new() -> Self {
        Self {
            tasks: BTreeMap::new(),
            done: BTreeMap::new(),
            next: 0,
        }
    }

    /// Takes in a task. It counts as woken, and is not polled yet.
    pub(crate) fn spawn(&mut self, future: impl Future<Output = T> + 'a) -> Id {
        let id = self.next;
        self.next += 1;
        let task = Task {
            future: Box::pin(future),
            flag: Flag::raised(),
        };
        self.tasks.insert(id, task);
        id
    }

    /// The tasks that are not done.
    pub(crate) fn pending(&self) -> Vec<Id> {
        self.tasks.keys().copied().collect()
    }

    /// The tasks that are not done and were woken since their last poll.
    pub(crate) fn woken(&self) -> Vec<Id> {
        let woken = self.tasks.iter().filter(|(_, task)| task.flag.is_up());
        woken.map(|(id, _)| *id).collect()
    }

    /// Polls one task once. True if it is done now.
    ///
    /// # Panics
    ///
    /// If it was not woken: then no executor would poll it.
    #[track_caller]
    pub(crate) fn poll(&mut self, id: Id) -> bool {
        let task = self.tasks.get_mut(&id).expect("the task is not done");
        assert!(task.flag.take(), "task {id} was not woken");
        let waker = Waker::from(Arc::clone(&task.flag));
        match task.future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => {
                self.tasks.remove(&id);
                self.done.insert(id, output);
                true
            }
            Poll::Pending => false,
        }
    }

    /// Polls one task once, which panics; drops it then, as an executor does, and gives back what it said.
    #[track_caller]
    pub(crate) fn poll_panicking(&mut self, id: Id) -> String {
        let polled = catch_unwind(AssertUnwindSafe(|| self.poll(id)));
        self.tasks.remove(&id);
        let payload = polled.expect_err("the poll panics");
        let text = payload.downcast_ref::<String>().cloned();
        text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string))
            .unwrap_or_default()
    }

    /// Polls woken tasks, in the order they came, until none is woken.
    pub(crate) fn run(&mut self) {
        for _ in 0..TOO_MANY {
            let woken = self.woken();
            if woken.is_empty() {
                return;
            }
            for id in woken {
                self.poll(id);
            }
        }
        panic!("they wake themselves and get nowhere");
    }

    /// Drops a task where it stands, or its output if it is done.
    pub(crate) fn cancel(&mut self, id: Id) {
        self.tasks.remove(&id);
        self.done.remove(&id);
    }

    /// Is the task done?
    pub(crate) fn is_done(&self, id: Id) -> bool {
        self.done.contains_key(&id)
    }

    /// The output of a task that is done.
    #[track_caller]
    pub(crate) fn take(&mut self, id: Id) -> T {
        let output = self.done.remove(&id);
        output.unwrap_or_else(|| panic!("stuck: task {id} is not done"))
    }

    /// Takes the outputs of all tasks that are done.
    pub(crate) fn take_done(&mut self) -> Vec<(Id, T)> {
        core::mem::take(&mut self.done).into_iter().collect()
    }

    /// Runs, and says aloud who is still pending.
    #[track_caller]
    pub(crate) fn run_to_end(&mut self) {
        self.run();
        let pending = self.pending();
        assert!(pending.is_empty(), "stuck: nothing wakes tasks {pending:?}");
    }
}
