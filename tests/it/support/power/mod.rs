//! Loss of power: what is left on a disk when everything that was not flushed is gone.
//!
//! `recorder.c` is loaded into the unmodified program and writes down, in one order, what it does to the files of a
//! directory. From that a [`Trace`] builds the disk as it may look after a cut at any moment: whatever a flush of its
//! file had covered is there, and each other sector of 512 bytes is as old or as new as chance will have it. Names
//! follow the same rule in order, as journaling file systems keep them: a flush of a directory keeps every change of names
//! before it, a flush of a file the file's own name.
//!
//! **Must not know** what is in the files. Needs Linux, a C compiler, and a program that is linked to the system's C
//! library at run time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use signalbox::sim::Dice;
use tempfile::TempDir;

const SOURCE: &str = include_str!("recorder.c");
const MAGIC: u32 = 0x5057_4c31;
const HEAD: usize = 32;
const SECTOR: usize = 512;
/// How long a flush takes: long enough that others write meanwhile.
const FLUSH_US: &str = "1000";
/// Not part of a disk after a loss of power: SQLite's shared memory, which is written through memory and made anew; and
/// what only a living server needs.
const NOT_KEPT: [&str; 3] = ["-shm", "postmaster.pid", "postmaster.opts"];

/// Records what programs do to a directory.
pub struct Recorder {
    folder: TempDir,
    directory: PathBuf,
}

impl Recorder {
    /// Prepares to record; the directory's files as they are now are what a cut at the first moment leaves. `None`, said
    /// aloud, on a machine where that is impossible.
    pub fn of(directory: &Path) -> Option<Self> {
        match Self::prepare(directory) {
            Ok(recorder) => Some(recorder),
            Err(reason) => {
                // Not `eprintln!`, which the test runner keeps to itself while tests pass.
                writeln!(std::io::stderr(), "\n!!! SKIPPED: loss of power was not tested. {reason}\n")
                    .expect("stderr is open");
                None
            }
        }
    }

    fn prepare(directory: &Path) -> Result<Self, String> {
        if !cfg!(target_os = "linux") {
            return Err("The recorder is written for Linux".into());
        }
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let source = folder.path().join("recorder.c");
        fs::write(&source, SOURCE).map_err(|error| error.to_string())?;
        let mut compiler = Command::new("cc");
        compiler
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(folder.path().join("recorder.so"))
            .arg(&source)
            .arg("-ldl");
        let built = compiler.output().map_err(|error| format!("There is no C compiler: cc: {error}"))?;
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        fs::write(folder.path().join("log"), "").map_err(|error| error.to_string())?;
        // Whoever runs the program may be somebody else.
        for (name, mode) in [("", 0o755), ("log", 0o666), ("recorder.so", 0o755)] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(folder.path().join(name), mode).map_err(|error| error.to_string())?;
        }
        let directory = directory.canonicalize().map_err(|error| error.to_string())?;
        copy_folder(&directory, &folder.path().join("base"));
        Ok(Self { folder, directory })
    }

    /// The environment of a program that is to be recorded.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        [
            ("LD_PRELOAD", path("recorder.so")),
            ("SIGNALBOX_POWER_DIR", self.directory.display().to_string()),
            ("SIGNALBOX_POWER_LOG", path("log")),
            ("SIGNALBOX_POWER_FLUSH_US", FLUSH_US.to_owned()),
        ]
    }

    /// The recording's clock: all that anybody knows of by now is in it up to here.
    pub fn clock(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let log = fs::File::open(self.folder.path().join("log")).expect("it was made");
        move || log.metadata().expect("it is there").len()
    }

    /// What was recorded. The program must have ended.
    pub fn finish(self) -> Trace {
        let log = fs::read(self.folder.path().join("log")).expect("it was made");
        let records = parse(&log, &self.directory);
        assert!(!records.is_empty(), "nothing was recorded: is the program linked to the C library at run time?");
        Trace { base: self.folder, directory: self.directory, log, records }
    }
}

#[derive(Debug)]
enum Event {
    Opened { path: String, truncated: bool },
    Written { offset: u64, bytes: std::ops::Range<usize> },
    Resized(u64),
    Grown(u64),
    Flushed { began: u64 },
    DirectoryFlushed { began: u64 },
    Renamed { from: String, to: String },
    Unlinked(String),
    Made(String),
    Linked { from: String, to: String },
    Mapped,
}

#[derive(Debug)]
struct Record {
    /// The clock right after it.
    at: u64,
    inode: u64,
    event: Event,
}

fn parse(log: &[u8], directory: &Path) -> Vec<Record> {
    let word = |at: usize| u32::from_le_bytes(log[at..at + 4].try_into().expect("four bytes"));
    let double = |at: usize| u64::from_le_bytes(log[at..at + 8].try_into().expect("eight bytes"));
    let size = |number: u64| usize::try_from(number).expect("it is in memory");
    let relative = |path: &str| {
        let path = Path::new(path).strip_prefix(directory).expect("only what is below was recorded");
        path.to_str().expect("a name").trim_end_matches('/').to_owned()
    };
    let (mut records, mut at) = (Vec::new(), 0);
    while at < log.len() {
        assert_eq!(word(at), MAGIC, "the log is damaged at {at}");
        let (kind, inode, number, length) = (word(at + 4), double(at + 8), double(at + 16), size(double(at + 24)));
        let bytes = at + HEAD..at + HEAD + length;
        let text = || std::str::from_utf8(&log[bytes.clone()]).expect("a name");
        let two = || {
            let (from, to) = text().split_once('\0').expect("two names");
            (relative(from), relative(to))
        };
        let event = match kind {
            1 => Event::Opened { path: relative(text()), truncated: number == 1 },
            2 => Event::Written { offset: number, bytes: bytes.clone() },
            3 => Event::Resized(number),
            4 => Event::Grown(number),
            5 => Event::Flushed { began: number },
            6 => {
                let (from, to) = two();
                Event::Renamed { from, to }
            }
            7 => Event::Unlinked(relative(text())),
            8 => Event::Made(relative(text())),
            9 => {
                let (from, to) = two();
                Event::Linked { from, to }
            }
            10 => Event::DirectoryFlushed { began: number },
            11 => Event::Mapped,
            _ => panic!("the program used something that the recorder does not follow: {}", text()),
        };
        at = bytes.end;
        records.push(Record { at: at as u64, inode, event });
    }
    records
}

/// Whether the disk keeps its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flushes {
    /// What was flushed is there.
    Kept,
    /// As if no flush had ever been asked for: what `synchronous=OFF` and `fsync=off` make of a program.
    Ignored,
}

/// What becomes of what was not flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unflushed {
    /// All of it is gone.
    Gone,
    /// All of it had reached the disk by chance.
    There,
    /// Each sector, each size and each name as chance will have it.
    Torn {
        /// The chance.
        seed: u64,
    },
}

/// A loss of power.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// When, on the recording's clock.
    pub at: u64,
    /// Whether the disk keeps its word.
    pub flushes: Flushes,
    /// What becomes of the rest.
    pub unflushed: Unflushed,
}

/// What programs did to a directory.
pub struct Trace {
    base: TempDir,
    directory: PathBuf,
    log: Vec<u8>,
    records: Vec<Record>,
}

enum Change<'a> {
    Bytes(usize, &'a [u8]),
    Size(usize),
    LeastSize(usize),
}

/// A file, whatever its name.
#[derive(Default)]
struct File<'a> {
    /// Its contents at the beginning.
    base: Vec<u8>,
    inode: Option<u64>,
    changes: Vec<(u64, Change<'a>)>,
    /// Changes up to here are flushed.
    flushed: u64,
    /// Its own creation among the changes of names.
    made: Option<usize>,
}

#[derive(Clone, Copy)]
enum Naming<'a> {
    Made(&'a str, usize),
    Renamed(&'a str, &'a str),
    Linked(&'a str, &'a str),
    Unlinked(&'a str),
    Folder(&'a str),
}

/// Names of files and, as `None`, folders.
type Names = BTreeMap<String, Option<usize>>;

impl Naming<'_> {
    fn apply(self, names: &mut Names) {
        match self {
            Self::Made(path, file) => drop(names.insert(path.to_owned(), Some(file))),
            Self::Folder(path) => drop(names.insert(path.to_owned(), None)),
            Self::Unlinked(path) => drop(names.remove(path)),
            Self::Linked(from, to) => {
                if let Some(file) = names.get(from).copied() {
                    names.insert(to.to_owned(), file);
                }
            }
            Self::Renamed(from, to) => {
                let below = format!("{from}/");
                let moved: Vec<_> =
                    names.keys().filter(|path| *path == from || path.starts_with(&below)).cloned().collect();
                for path in moved {
                    let file = names.remove(&path).expect("it was there");
                    names.insert(format!("{to}{}", &path[from.len()..]), file);
                }
            }
        }
    }
}

/// Everything that happened up to a moment.
struct History<'a> {
    files: Vec<File<'a>>,
    base: Names,
    names: Names,
    namings: Vec<(u64, Naming<'a>)>,
    /// Changes of names up to here are flushed.
    folders_flushed: u64,
}

impl<'a> History<'a> {
    fn of(trace: &'a Trace, until: u64) -> Self {
        let (mut files, mut base) = (Vec::new(), Names::new());
        walk(&trace.base.path().join("base"), "", &mut |path, contents| {
            base.insert(
                path,
                contents.map(|contents| {
                    files.push(File { base: contents, ..File::default() });
                    files.len() - 1
                }),
            );
        });
        let mut history = Self { files, names: base.clone(), base, namings: Vec::new(), folders_flushed: 0 };
        let mut inodes: HashMap<u64, usize> = HashMap::new();
        for record in trace.records.iter().take_while(|record| record.at <= until) {
            history.add(trace, record, &mut inodes);
        }
        history
    }

    fn add(&mut self, trace: &'a Trace, record: &'a Record, inodes: &mut HashMap<u64, usize>) {
        let known = inodes.get(&record.inode).copied();
        let file = || known.unwrap_or_else(|| panic!("{:?} of a file that was never opened", record.event));
        let size = |number: u64| usize::try_from(number).expect("it fits in memory");
        let change = match &record.event {
            Event::Opened { path, truncated } => {
                let file = if let Some(file) = self.names.get(path).copied().flatten() {
                    file
                } else {
                    self.files.push(File { made: Some(self.namings.len()), ..File::default() });
                    self.name(record.at, Naming::Made(path, self.files.len() - 1));
                    self.files.len() - 1
                };
                let before = self.files[file].inode.replace(record.inode);
                assert!(before.is_none_or(|before| before == record.inode), "{path} became another file unseen");
                inodes.insert(record.inode, file);
                truncated.then_some((file, Change::Size(0)))
            }
            Event::Written { offset, bytes } => Some((file(), Change::Bytes(size(*offset), &trace.log[bytes.clone()]))),
            Event::Resized(to) => Some((file(), Change::Size(size(*to)))),
            Event::Grown(to) => Some((file(), Change::LeastSize(size(*to)))),
            Event::Flushed { began } => {
                let flushed = &mut self.files[file()].flushed;
                *flushed = (*flushed).max(*began);
                None
            }
            Event::DirectoryFlushed { began } => {
                self.folders_flushed = self.folders_flushed.max(*began);
                None
            }
            Event::Renamed { from, to } => self.name(record.at, Naming::Renamed(from, to)),
            Event::Linked { from, to } => self.name(record.at, Naming::Linked(from, to)),
            Event::Unlinked(path) => self.name(record.at, Naming::Unlinked(path)),
            Event::Made(path) => self.name(record.at, Naming::Folder(path)),
            Event::Mapped => {
                let file = file();
                let path = self.names.iter().find(|(_, named)| **named == Some(file)).map(|(path, _)| path);
                assert!(
                    path.is_some_and(|path| !is_kept(path)),
                    "{path:?} is written through memory, which is not seen"
                );
                None
            }
        };
        if let Some((file, change)) = change {
            self.files[file].changes.push((record.at, change));
        }
    }

    fn name(&mut self, at: u64, naming: Naming<'a>) -> Option<(usize, Change<'a>)> {
        naming.apply(&mut self.names);
        self.namings.push((at, naming));
        None
    }

    /// The names that survive: all that were flushed, and some of those after.
    fn surviving_names(&self, cut: &Cut) -> Names {
        let safe = match cut.flushes {
            Flushes::Ignored => 0,
            Flushes::Kept => {
                let by_folder = self.namings.iter().filter(|(at, _)| *at <= self.folders_flushed).count();
                let own = self.files.iter().filter(|file| file.flushed > 0).filter_map(|file| file.made);
                own.map(|made| made + 1).max().unwrap_or_default().max(by_folder)
            }
        };
        let unsure = self.namings.len() - safe;
        let survive = safe
            + match cut.unflushed {
                Unflushed::Gone => 0,
                Unflushed::There => unsure,
                Unflushed::Torn { seed } => {
                    let chosen = Dice::new(seed).between(0, unsure as u64);
                    usize::try_from(chosen).expect("no more than there are")
                }
            };
        let mut names = self.base.clone();
        for (_, naming) in &self.namings[..survive] {
            naming.apply(&mut names);
        }
        names
    }

    fn contents(&self, number: usize, cut: &Cut) -> Vec<u8> {
        let file = &self.files[number];
        let safe = if cut.flushes == Flushes::Kept { file.flushed } else { 0 };
        let mut bytes = file.base.clone();
        // Up to which moment the sector's (or, as `u64::MAX`, the size's) changes reached the disk.
        let reached = |sector: u64| match cut.unflushed {
            Unflushed::Gone => safe,
            Unflushed::There => cut.at,
            Unflushed::Torn { seed } => {
                let chance = mix(seed ^ mix(number as u64) ^ mix(sector.wrapping_add(1)));
                safe + chance % (cut.at.saturating_sub(safe) + 1)
            }
        };
        let size_reached = reached(u64::MAX);
        for (at, change) in &file.changes {
            let sized = *at <= safe.max(size_reached);
            match change {
                Change::Size(size) if sized => bytes.resize(*size, 0),
                Change::LeastSize(size) if sized => bytes.resize(bytes.len().max(*size), 0),
                Change::Size(_) | Change::LeastSize(_) => {}
                Change::Bytes(offset, written) => {
                    let end = offset + written.len();
                    if sized {
                        bytes.resize(bytes.len().max(end), 0);
                    }
                    let mut from = *offset;
                    while from < end.min(bytes.len()) {
                        let to = ((from / SECTOR + 1) * SECTOR).min(end).min(bytes.len());
                        if *at <= safe || *at <= reached((from / SECTOR) as u64) {
                            bytes[from..to].copy_from_slice(&written[from - offset..to - offset]);
                        }
                        from = to;
                    }
                }
            }
        }
        bytes
    }
}

impl Trace {
    /// The clock at the end.
    pub fn end(&self) -> u64 {
        self.log.len() as u64
    }

    /// Writes the disk as the cut leaves it into an empty directory.
    pub fn image(&self, cut: &Cut, to: &Path) {
        let history = History::of(self, cut.at);
        for (path, file) in history.surviving_names(cut) {
            if !is_kept(&path) {
                continue;
            }
            let target = to.join(&path);
            let Some(file) = file else {
                fs::create_dir_all(&target).expect("a directory");
                continue;
            };
            fs::create_dir_all(target.parent().expect("it is below")).expect("a directory");
            fs::write(&target, history.contents(file, cut)).expect("written");
            fs::set_permissions(&target, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("ours");
        }
    }

    /// Checks the recorder itself: what it saw, applied whole, is what the directory holds now, to the last byte. Files
    /// that `unseen` names may differ.
    pub fn expect_whole(&self, unseen: &[&str]) {
        let history = History::of(self, self.end());
        let cut = Cut { at: self.end(), flushes: Flushes::Kept, unflushed: Unflushed::There };
        let mut there = BTreeMap::new();
        walk(&self.directory, "", &mut |path, contents| drop(there.insert(path, contents)));
        let counts = |path: &String| is_kept(path) && !unseen.iter().any(|unseen| path.contains(unseen));
        let names: BTreeSet<_> = history.names.keys().filter(|path| counts(path)).collect();
        let found: BTreeSet<_> = there.keys().filter(|path| counts(path)).collect();
        let missed: Vec<_> = names.symmetric_difference(&found).collect();
        assert!(missed.is_empty(), "the recorder missed a change of names: {missed:?}");
        for (path, contents) in there.iter().filter(|(path, _)| counts(path)) {
            if let (Some(contents), Some(file)) = (contents, history.names[path]) {
                assert!(*contents == history.contents(file, &cut), "the recorder missed a change of {path}");
            }
        }
    }
}

fn is_kept(path: &str) -> bool {
    !NOT_KEPT.iter().any(|not_kept| path.ends_with(not_kept)) && !path.contains("pg_stat_tmp/")
}

/// `splitmix64`: the same chance for the same sector, whatever is asked before.
fn mix(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Every file (with its contents) and folder below.
fn walk(folder: &Path, prefix: &str, found: &mut impl FnMut(String, Option<Vec<u8>>)) {
    for entry in fs::read_dir(folder).expect("readable") {
        let entry = entry.expect("readable");
        let path = format!("{prefix}{}", entry.file_name().to_str().expect("a name"));
        let kind = entry.file_type().expect("known");
        if kind.is_dir() {
            found(path.clone(), None);
            walk(&entry.path(), &format!("{path}/"), found);
        } else if kind.is_file() {
            found(path, Some(fs::read(entry.path()).expect("readable")));
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a directory");
    walk(from, "", &mut |path, contents| match contents {
        None => fs::create_dir_all(to.join(path)).expect("a directory"),
        Some(contents) => fs::write(to.join(path), contents).expect("written"),
    });
}
