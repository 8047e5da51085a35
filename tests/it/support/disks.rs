//! Disks for tests: one that is soon full, and one that is memory.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use tempfile::TempDir;

/// What a memory disk must have free, in KiB: containers often have next to nothing.
const ROOM_KIB: u64 = 1 << 20;

/// A temporary directory in memory where there is plenty, so that tests of databases that are made and thrown away do
/// not wait for a disk. Nothing that these tests say depends on it: what a process wrote is there after it was killed, and
/// losses of power are not left to the disk.
pub fn in_memory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let free = Command::new("df").args(["--output=avail", "-k"]).arg(memory).output().ok().and_then(|output| {
        let said = String::from_utf8(output.stdout).ok()?;
        said.lines().nth(1)?.trim().parse::<u64>().ok()
    });
    let in_memory = (free.unwrap_or_default() > ROOM_KIB).then(|| tempfile::tempdir_in(memory).ok()).flatten();
    in_memory.unwrap_or_else(|| tempfile::tempdir().expect("a temporary directory"))
}

/// A file system of a few mebibytes. Dropping it takes it away.
#[derive(Debug)]
pub struct SmallDisk {
    directory: Arc<TempDir>,
}

impl SmallDisk {
    /// A file system of that size; `None`, said aloud, for who may not mount one.
    pub fn mount(mebibytes: u32) -> Option<Self> {
        let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
        let size = format!("size={mebibytes}m,mode=0755");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "signalbox-test"]).arg(directory.path());
        let reason = match mount.output() {
            Ok(output) if output.status.success() => return Some(Self { directory }),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        // Not `eprintln!`, which the test runner keeps to itself while tests pass.
        writeln!(
            std::io::stderr(),
            "\n!!! SKIPPED: a full disk was not tested; that needs the right to mount. {reason}\n"
        )
        .expect("stderr is open");
        None
    }

    /// Its root.
    pub fn directory(&self) -> Arc<TempDir> {
        Arc::clone(&self.directory)
    }

    fn ballast(&self) -> PathBuf {
        self.directory.path().join("ballast")
    }

    /// Fills it to the last byte.
    pub fn fill(&self) {
        let mut ballast = File::options().create(true).append(true).open(self.ballast()).expect("a name is free");
        for piece in [1 << 20, 1 << 12, 1] {
            let piece = vec![0; piece];
            while ballast.write_all(&piece).is_ok() {}
        }
    }

    /// Makes room again.
    pub fn make_room(&self) {
        fs::remove_file(self.ballast()).expect("it was filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: whoever still has a file open on it keeps it until then.
        let unmounted = Command::new("umount").arg("--lazy").arg(self.directory.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("NOTE: {} stays mounted", self.directory.path().display());
        }
    }
}
