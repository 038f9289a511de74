//! What the disk can do by itself.

use rustix::fs::{Advice, Mode, OFlags, fadvise, open};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What is written at once, past the kernel's memory.
const DIRECT_BYTES: usize = 1024 * 1024;
/// What O_DIRECT wants an address, a length and an offset to be a multiple of.
const ALIGN: usize = 4096;

/// Writes so many bytes to a new file in `folder`, in order and past the kernel's memory (O_DIRECT), with a sync
/// at the end, and tells how long it took. The file is gone then. Bytes that are not all alike: a disk may know zeros.
///
/// # Errors
/// The file system does not take O_DIRECT, or has no room.
pub fn write_direct(folder: &Path, bytes: u64) -> io::Result<Duration> {
    let path = folder.join("direct");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::DIRECT;
    let file = File::from(open(&path, flags, Mode::from_raw_mode(0o600))?);
    let mut random = fastrand::Rng::with_seed(0);
    let mut memory = vec![0; DIRECT_BYTES + ALIGN];
    random.fill(&mut memory);
    let skip = memory.as_ptr().align_offset(ALIGN);
    let buffer = &memory[skip..skip + DIRECT_BYTES];
    let begun = Instant::now();
    let mut offset = 0;
    while offset < bytes {
        file.write_all_at(buffer, offset)?;
        offset += DIRECT_BYTES as u64;
    }
    file.sync_data()?;
    let took = begun.elapsed();
    fs::remove_file(path)?;
    Ok(took)
}

/// How long each of `count` fdatasyncs took, each of 4 KiB that were written before it: behind the end of a file,
/// which grows, or in place.
///
/// # Errors
/// The disk's.
pub fn sync_times(folder: &Path, count: usize, grows: bool) -> io::Result<Vec<f64>> {
    let path = folder.join("sync");
    let mut file = File::create(&path)?;
    let page = [b'p'; ALIGN];
    if !grows {
        file.write_all(&vec![0; count * ALIGN])?;
        file.sync_data()?;
    }
    let mut times = Vec::with_capacity(count);
    for at in 0..count {
        file.write_all_at(&page, (at * ALIGN) as u64)?;
        let begun = Instant::now();
        file.sync_data()?;
        times.push(begun.elapsed().as_secs_f64());
    }
    fs::remove_file(path)?;
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Brings files into the kernel's memory.
///
/// # Errors
/// The disk's.
pub fn warm(files: &[PathBuf]) -> io::Result<()> {
    let mut buffer = vec![0; DIRECT_BYTES];
    for path in files {
        let mut file = File::open(path)?;
        while file.read(&mut buffer)? > 0 {}
    }
    Ok(())
}

/// Has the kernel forget what it has in memory of files that are on the disk already.
///
/// # Errors
/// The disk's.
pub fn cool(files: &[PathBuf]) -> io::Result<()> {
    for path in files {
        let file = File::open(path)?;
        file.sync_data()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}

/// Copies files to one in `folder`, with a sync at the end, and tells how long it took. The copy is gone then.
///
/// # Errors
/// The disk's.
pub fn copy(files: &[PathBuf], folder: &Path) -> io::Result<Duration> {
    let path = folder.join("copy");
    let mut buffer = vec![0; DIRECT_BYTES];
    let begun = Instant::now();
    let mut copy = File::create(&path)?;
    for path in files {
        let mut file = File::open(path)?;
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                bytes => copy.write_all(&buffer[..bytes])?,
            }
        }
    }
    copy.sync_data()?;
    let took = begun.elapsed();
    fs::remove_file(path)?;
    Ok(took)
}
