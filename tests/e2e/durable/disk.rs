//! Disks that can be filled, and whose power can be cut: file systems of a test's own, mounted by root.

use crate::harness::*;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Shuts an ext4 down as a power cut does, for each line that it reads: what was not flushed is lost,
/// its journal's too (FS_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH).
const POWER_SWITCH: &str = "
import fcntl, os, struct, sys
for line in sys.stdin:
    folder = os.open(sys.argv[1], os.O_RDONLY)
    fcntl.ioctl(folder, 0x8004587d, struct.pack('I', 2))
    os.close(folder)
    print('cut', flush=True)
";

/// A file system in a mount namespace of its own, which ends with it, and which no other test's
/// namespace has a copy of: a copy would keep a disk mounted.
pub(crate) struct Disk {
    mounted: PathBuf,
    /// The file of a real disk; memory has none.
    image: Option<PathBuf>,
    /// Holds the namespace. What is mounted in it, and its loop device, go when nobody is inside any more.
    _holder: Helper,
    holder_pid: String,
}

/// Cuts a disk's power at once when it is told to.
pub(crate) struct PowerSwitch(Helper);

impl PowerSwitch {
    /// Nothing that is not on the disk by now ever will be.
    #[track_caller]
    pub(crate) fn cut(&mut self) {
        self.0.write_line("");
        assert_eq!(self.0.line(), "cut");
    }
}

impl Disk {
    /// Memory of a size (`64m`), which loses nothing but has an end.
    #[track_caller]
    pub(crate) fn memory(folder: &Path, size: &str) -> Self {
        let disk = Self::unmounted(folder, None);
        run(disk.inside("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(&disk.mounted));
        disk
    }

    /// An ext4 in a file of `folder`.
    #[track_caller]
    pub(crate) fn ext4(folder: &Path, bytes: u64) -> Self {
        let image = folder.join("image");
        File::create_new(&image).unwrap().set_len(bytes).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
        let disk = Self::unmounted(folder, Some(image));
        disk.mount_image();
        disk
    }

    #[track_caller]
    fn unmounted(folder: &Path, image: Option<PathBuf>) -> Self {
        assert!(is_root(), "this test mounts disks of its own: it runs as root only");
        let mounted = folder.join("disk");
        fs::create_dir(&mounted).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", "echo $$ && exec cat"]);
        let holder = Helper::start(command);
        let holder_pid = holder.line();
        Self { mounted, image, _holder: holder, holder_pid }
    }

    /// Where it is mounted, for who is inside.
    pub(crate) fn path(&self) -> &Path {
        &self.mounted
    }

    /// A path of the inside, seen from the test.
    pub(crate) fn seen(&self, path: &Path) -> PathBuf {
        format!("/proc/{}/root{}", self.holder_pid, path.display()).into()
    }

    /// What a command that is to run inside begins with.
    pub(crate) fn wrapper(&self) -> [&str; 4] {
        ["nsenter", "--mount", "--target", &self.holder_pid]
    }

    fn inside(&self, program: &str) -> Command {
        let [nsenter, arguments @ ..] = self.wrapper();
        let mut command = Command::new(nsenter);
        command.args(arguments).arg(program);
        command
    }

    fn mount_image(&self) {
        let image = self.image.as_ref().expect("memory is not mounted again");
        run(self.inside("mount").args(["-o", "loop"]).arg(image).arg(&self.mounted));
    }

    /// What cuts its power.
    pub(crate) fn switch(&self) -> PowerSwitch {
        let mut command = self.inside("python3");
        command.args(["-c", POWER_SWITCH]).arg(&self.mounted);
        PowerSwitch(Helper::start(command))
    }

    /// Mounts it again after a cut, when nobody has it any more.
    pub(crate) fn remount(&self) {
        run(self.inside("umount").arg(&self.mounted));
        self.mount_image();
    }

    /// Takes all the room that there is, until it is dropped.
    pub(crate) fn fill(&self) -> Filler {
        let path = self.seen(&self.mounted).join("filler");
        let mut file = File::create_new(&path).unwrap();
        for chunk in [vec![1; 256 * 1024], vec![1; 4096], vec![1; 1]] {
            let full = std::iter::repeat(()).find_map(|()| file.write_all(&chunk).err());
            assert_eq!(full.unwrap().kind(), ErrorKind::StorageFull);
        }
        Filler(path)
    }
}

/// A file that leaves no room.
pub(crate) struct Filler(PathBuf);

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
