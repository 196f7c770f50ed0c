//! Runs the cells of a study, one or several at a time; whatever happens to one, the others go on.
//!
//! Cells run on threads of their own and tell what happens to them; the thread that runs the study keeps the index and the
//! observer.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

use super::CONFIG;
use super::estimate::{self, Estimate};
use super::file::Study;
use super::index::{Cell, CellState, Index, now};
use super::plan::{Job, Task, tasks};
use super::source::{Data, Sources};
use crate::backend::{Device, device};
use crate::boosting;
use crate::config::{BoostedConfig, Config};
use crate::data::Dataset;
use crate::data::control::controlled;
use crate::error::{Error, Result};
use crate::on_device;
use crate::train::{self, RunFolder, session};

/// Watches a study; called from the thread that runs it.
pub trait Observer {
    /// A cell has another state than before.
    fn changed(&mut self, _plan: &Plan, _cell: usize) {}
    /// A running cell: the share of its training that is done where that moves, and a few words.
    fn progress(&mut self, _plan: &Plan, _cell: usize, _share: Option<f64>, _words: &str) {}
    /// A line worth reading about a running cell.
    fn say(&mut self, _plan: &Plan, _cell: usize, _line: &str) {}
}

/// Watches nothing.
pub struct Silent;
impl Observer for Silent {}

/// What the thread of a cell tells.
enum Event {
    Began,
    Progress { share: Option<f64>, words: String },
    Said(String),
    Over { seconds: f64, result: Result<()> },
}

/// A study that is ready to run: every cell, what it runs, and what is already done.
pub struct Plan {
    pub study: Study,
    /// Folder of the study.
    pub out: PathBuf,
    pub index: Index,
    /// One a cell, in the same order.
    pub tasks: Vec<Task>,
    /// What each cell comes to; all zero for one without data.
    pub estimates: Vec<Estimate>,
    sources: Sources,
}

impl Plan {
    /// Expands a study, finds its data, and takes over what its folder already holds. With `keep`, data that the study makes
    /// itself are written into the folder; otherwise nothing is written.
    ///
    /// # Errors
    /// [`Error::Config`] naming the group for settings that cannot work; for a cell that was begun with other settings, or
    /// that the file no longer asks for.
    pub fn new(study: Study, out: &Path, command: String, commit: &str, keep: bool) -> Result<Plan> {
        let tasks = tasks(&study, out)?;
        let found = if Index::is_in(out) { Some(Index::read(out)?) } else { None };
        check_changes(&tasks, found.as_ref(), out)?;
        let (_, device) = Device::open(study.device.parse()?, device::precision("f32")?, 0)?;
        let mut plan = Plan {
            index: Index {
                version: env!("CARGO_PKG_VERSION").into(),
                commit: commit.into(),
                device,
                started: found.as_ref().map_or_else(now, |found| found.started.clone()),
                command: found.as_ref().map_or(command, |found| found.command.clone()),
                cells: tasks.iter().map(|task| task.cell.clone()).collect(),
            },
            study,
            out: out.to_path_buf(),
            tasks,
            estimates: Vec::new(),
            sources: Sources::default(),
        };
        if let Some(found) = found {
            plan.adopt(&found);
        }
        for i in 0..plan.tasks.len() {
            let estimate = plan.examine(i, keep);
            plan.estimates.push(estimate);
        }
        Ok(plan)
    }
    /// The states of an earlier start.
    fn adopt(&mut self, found: &Index) {
        for cell in &mut self.index.cells {
            let Some(old) = found.cells.iter().find(|old| folder_of(old) == folder_of(cell)) else { continue };
            (cell.samples_seen, cell.seconds) = (old.samples_seen, old.seconds);
            cell.state = match old.state {
                CellState::Done if self.out.join(folder_of(cell)).join("metrics.json").is_file() => CellState::Done,
                CellState::Running | CellState::Interrupted => CellState::Interrupted,
                // Data may have come, a failure may have been mended.
                _ => CellState::Pending,
            };
        }
    }
    /// Finds a cell's data and what it comes to; a cell whose data or settings do not work takes the state that says so.
    fn examine(&mut self, i: usize, keep: bool) -> Estimate {
        let Plan { study, out, index, tasks, sources, .. } = self;
        let (task, cell) = (&tasks[i], &mut index.cells[i]);
        let examined = sources.open(study, &task.source, out, keep).and_then(|data| {
            Ok(match (data, &task.job) {
                (Data::Missing(why), _) => Err(why.clone()),
                (Data::Pairs(dataset), Job::Network(config)) => {
                    session::check(config, dataset)?;
                    let split = session::make_split(config, dataset)?;
                    let lengths = [dataset.enhancer_length(), dataset.promoter_length()];
                    Ok(estimate::network(config, lengths, &split, estimate::speed(&index.device)))
                }
                (Data::Features(table), Job::Trees(config)) => {
                    let splits = boosting::session::splits(config, &table.pairs.table)?;
                    Ok(estimate::trees(config.model.trees, &splits))
                }
                _ => return Err(Error::config(format!("data.{}", task.source), "holds no data of this model's kind")),
            })
        });
        let (state, reason) = match examined {
            Ok(Ok(estimate)) => return estimate,
            // What was scored once stays, whatever became of its data.
            _ if cell.state == CellState::Done => return Estimate::default(),
            Ok(Err(why)) => (CellState::NoData, why),
            Err(error) => (CellState::Failed, error.to_string()),
        };
        (cell.state, cell.reason) = (state, Some(reason));
        if !self.out.join(folder_of(cell)).is_dir() {
            cell.folder = None;
        }
        Estimate::default()
    }
    /// Cells in a state.
    pub fn count(&self, state: CellState) -> usize {
        self.index.cells.iter().filter(|cell| cell.state == state).count()
    }
    /// Seconds that the study will still take, when `done` tells the share of running cells that is over; `None` on unmeasured
    /// devices.
    pub fn seconds_left(&self, done: impl Fn(usize) -> f64) -> Option<f64> {
        let cells = self.index.cells.iter().zip(&self.tasks).zip(&self.estimates).enumerate();
        let cells = cells.map(|(i, ((cell, task), &estimate))| estimate::Part {
            cell,
            job: &task.job,
            estimate,
            done: if cell.state == CellState::Running { done(i) } else { 0.0 },
        });
        estimate::left(&cells.collect::<Vec<_>>(), self.study.at_once)
    }

    /// Writes `study.toml` and `study.json`, then runs every cell that is not over, `at_once` of the study at a time. Ends early
    /// only when `interrupted`, which is asked between steps, says so: running cells then hold a checkpoint, and the next start goes
    /// on from there.
    ///
    /// # Errors
    /// [`Error::Io`] when the index cannot be written; running cells save first. What fails in a cell is in its state.
    pub fn run(&mut self, observer: &mut dyn Observer, interrupted: &(dyn Fn() -> bool + Sync)) -> Result<()> {
        let folder = RunFolder::at(&self.out);
        folder.write(CONFIG, self.study.to_toml().as_bytes())?;
        self.index.write(&self.out)?;
        let waiting = |cell: &Cell| matches!(cell.state, CellState::Pending | CellState::Interrupted);
        let list: Vec<usize> = (0..self.tasks.len()).filter(|&i| waiting(&self.index.cells[i])).collect();
        let (study, out, tasks) = (self.study.clone(), self.out.clone(), self.tasks.clone());
        let sources = std::mem::take(&mut self.sources);
        let halted = AtomicBool::new(false);
        let shared = Shared { study: &study, out: &out, tasks: &tasks, sources: &sources, interrupted, halted };
        let ended = std::thread::scope(|scope| {
            let ((tell, told), shared, list) = (channel(), &shared, &list);
            let cells = scope.spawn(move || {
                let one = |k: usize| {
                    if !shared.stops() {
                        shared.run(list[k], &tell);
                    }
                    Ok(())
                };
                train::together(list.len(), shared.study.at_once, one)
            });
            let mut ended = Ok(());
            for (cell, event) in told {
                if let Err(error) = self.take(cell, event, observer) {
                    shared.halted.store(true, Ordering::Relaxed);
                    ended = ended.and(Err(error));
                }
            }
            let started = cells.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            ended.and(started.into_iter().collect())
        });
        self.sources = sources;
        ended
    }
    /// What the thread of a cell has told.
    fn take(&mut self, i: usize, event: Event, observer: &mut dyn Observer) -> Result<()> {
        let (seconds, result) = match event {
            Event::Began => return self.set(i, CellState::Running, None, observer),
            Event::Progress { share, words } => {
                observer.progress(self, i, share, &words);
                return Ok(());
            }
            Event::Said(line) => {
                observer.say(self, i, &line);
                return Ok(());
            }
            Event::Over { seconds, result } => (seconds, result),
        };
        let cell = &mut self.index.cells[i];
        cell.seconds += seconds;
        let path = self.out.join(folder_of(cell));
        if let Some(samples) = samples_seen(&path) {
            cell.samples_seen = samples;
        }
        let (state, reason) = match result {
            Ok(()) => (CellState::Done, None),
            Err(Error::Interrupted(_)) => {
                (CellState::Interrupted, Some("stopped by the user; the same command goes on".to_string()))
            }
            Err(error) => (CellState::Failed, Some(error.to_string())),
        };
        if state == CellState::Failed && !path.is_dir() {
            cell.folder = None;
        }
        self.set(i, state, reason, observer)
    }
    fn set(&mut self, i: usize, state: CellState, reason: Option<String>, observer: &mut dyn Observer) -> Result<()> {
        let cell = &mut self.index.cells[i];
        (cell.state, cell.reason) = (state, reason);
        self.index.write(&self.out)?;
        observer.changed(self, i);
        Ok(())
    }
}

type Tell = Sender<(usize, Event)>;

/// What the threads of the cells share.
struct Shared<'a> {
    study: &'a Study,
    out: &'a Path,
    tasks: &'a [Task],
    sources: &'a Sources,
    interrupted: &'a (dyn Fn() -> bool + Sync),
    /// The study cannot go on: running cells save and stop as if interrupted.
    halted: AtomicBool,
}

impl Shared<'_> {
    fn stops(&self) -> bool {
        self.halted.load(Ordering::Relaxed) || (self.interrupted)()
    }
    fn run(&self, i: usize, tell: &Tell) {
        // The other end lives until all cells are over.
        let send = |event| drop(tell.send((i, event)));
        send(Event::Began);
        let started = Instant::now();
        let result = self.cell(i, tell);
        send(Event::Over { seconds: started.elapsed().as_secs_f64(), result });
    }
    fn cell(&self, i: usize, tell: &Tell) -> Result<()> {
        let task = &self.tasks[i];
        let path = self.out.join(folder_of(&task.cell));
        match (self.sources.get(&task.source)?, &task.job) {
            (Data::Pairs(dataset), Job::Network(config)) => {
                let dataset = controlled(dataset.clone(), config.data.control)?;
                network(config, &dataset, &path, CellWatch { shared: self, cell: i, tell, folder: None })
            }
            (Data::Features(table), Job::Trees(config)) => {
                let total = config.model.trees * boosting::session::splits(config, &table.pairs.table)?.len();
                trees(config, table, &path, &TreeWatch { shared: self, cell: i, tell, grown: 0.into(), total })
            }
            _ => unreachable!("cells without data of their kind do not run"),
        }
    }
}

/// Where the run of a cell is or will be.
fn folder_of(cell: &Cell) -> &Path {
    cell.folder.as_deref().unwrap_or(Path::new(""))
}

/// Training samples that the checkpoint of a network's run has seen.
fn samples_seen(run: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(run.join("state.json")).ok()?;
    Some(serde_json::from_str::<train::State>(&text).ok()?.samples)
}

/// Error for a cell that was begun with other settings than the file gives it now, or that it no longer asks for.
fn check_changes(tasks: &[Task], found: Option<&Index>, out: &Path) -> Result<()> {
    let remedy = |run: &Path| {
        format!("take the change back, begin another study with --out, or delete {} to lose that run", run.display())
    };
    for task in tasks {
        let run = out.join(folder_of(&task.cell));
        let begun = run.join("config.toml");
        if begun.is_file()
            && let Some(change) = task.job.difference(&Job::read(&begun)?)
        {
            let message = format!("was begun with other settings ({change}); {}", remedy(&run));
            return Err(Error::config(format!("group `{}`: {}", task.cell.group, task.cell.title()), message));
        }
    }
    let asked = |old: &Cell| tasks.iter().any(|task| folder_of(&task.cell) == folder_of(old));
    for old in found.iter().flat_map(|found| &found.cells) {
        let run = out.join(folder_of(old));
        if old.folder.is_some() && run.join("config.toml").is_file() && !asked(old) {
            let message = format!("was begun, and the study file no longer asks for it; {}", remedy(&run));
            return Err(Error::config(format!("group `{}`: {}", old.group, old.title()), message));
        }
    }
    Ok(())
}

/// The run folder of a cell, and whether it was begun already.
fn run_folder(path: &Path) -> Result<(RunFolder, bool)> {
    let begun = path.join("config.toml").is_file();
    Ok((if begun { RunFolder::open(path)? } else { RunFolder::create(path)? }, begun))
}

/// Trains a network, or goes on with it, and scores its test part, as `epi-engine train` does.
fn network(config: &Config, dataset: &Dataset, path: &Path, mut watch: CellWatch<'_>) -> Result<()> {
    let mut config = config.clone();
    (config.data.enhancer_length, config.data.promoter_length) = (dataset.enhancer_length(), dataset.promoter_length());
    session::check(&config, dataset)?;
    let split = session::make_split(&config, dataset)?;
    let models = watch.shared.study.at_once;
    let need = models * session::memory_estimate(&config, dataset);
    let (device, why) = Device::open(config.train.device.parse()?, device::precision(&config.train.precision)?, need)?;
    let device = device.among(models);
    let (folder, resume) = run_folder(path)?;
    if !resume {
        folder.write("config.toml", config.to_toml().as_bytes())?;
    }
    let _lock = folder.lock()?;
    let mut lines = vec![format!("device     {why}"), format!("split      {}", split.description)];
    lines.extend(split.warnings.iter().map(|warning| format!("warning    {warning}")));
    lines.iter().try_for_each(|line| folder.append("log.txt", line))?;
    watch.folder = Some(folder.clone());
    on_device!(&device, backend => {
        let (fold, outcome) = session::train_fold(backend, &config, dataset, split, &folder, resume, &mut watch)?;
        session::report(&config, dataset, &[fold], &folder, outcome.to_json())?;
    });
    train::State::drop_tensors(&folder)
}

/// Grows the trees that are missing, and scores.
fn trees(config: &BoostedConfig, table: &boosting::FeatureTable, path: &Path, watch: &TreeWatch<'_>) -> Result<()> {
    let splits = boosting::session::splits(config, &table.pairs.table)?;
    let (folder, begun) = run_folder(path)?;
    if !begun {
        folder.write("config.toml", config.to_toml().as_bytes())?;
    }
    let _lock = folder.lock()?;
    for split in &splits {
        folder.append("log.txt", &format!("split      {}", split.description))?;
    }
    boosting::session::train(config, table, &splits, path, watch).map(drop)
}

/// Passes on what a network's training tells.
struct CellWatch<'a> {
    shared: &'a Shared<'a>,
    cell: usize,
    tell: &'a Tell,
    folder: Option<RunFolder>,
}

impl CellWatch<'_> {
    fn send(&self, event: Event) {
        let _ = self.tell.send((self.cell, event)); // the other end lives until all cells are over
    }
}

impl train::Observer for CellWatch<'_> {
    fn step(&mut self, p: &train::Progress<'_>) {
        let loss = p.loss.map_or(String::new(), |loss| format!(", loss {loss:.3}"));
        let words = format!("step {}/{}{loss}, {:.1} samples/s", p.step, p.steps, p.samples_per_s);
        let share = f64::from(p.step) / f64::from(p.steps.max(1));
        self.send(Event::Progress { share: Some(share), words });
    }
    fn scoring(&mut self, part: &str, done: u64, total: u64) {
        self.send(Event::Progress { share: None, words: format!("scoring {part} {done}/{total}") });
    }
    fn say(&mut self, line: &str) {
        // A log on a full disk must not end a training that can still go on.
        let logged = self.folder.as_ref().map_or(Ok(()), |folder| folder.append("log.txt", line));
        self.send(Event::Said(line.to_string()));
        if let Err(error) = logged {
            self.send(Event::Said(format!("warning: {error}")));
        }
    }
    fn interrupted(&self) -> bool {
        self.shared.stops()
    }
}

/// Passes on how many trees are grown.
struct TreeWatch<'a> {
    shared: &'a Shared<'a>,
    cell: usize,
    tell: &'a Tell,
    grown: AtomicUsize,
    total: usize,
}

impl boosting::session::Observer for TreeWatch<'_> {
    fn tree(&self) {
        let grown = 1 + self.grown.fetch_add(1, Ordering::Relaxed);
        if grown.is_multiple_of(20) {
            let share = grown as f64 / self.total.max(1) as f64;
            let words = format!("{grown}/{} trees", self.total);
            let _ = self.tell.send((self.cell, Event::Progress { share: Some(share), words }));
        }
    }
    fn interrupted(&self) -> bool {
        self.shared.stops()
    }
}

/// Refuses a second process on the same study; held as long as the returned file lives.
///
/// # Errors
/// [`Error::Config`] when another process runs it.
pub fn lock(out: &Path) -> Result<std::fs::File> {
    std::fs::create_dir_all(out).map_err(Error::io(out))?;
    RunFolder::at(out).lock()
}
