//! A file as a row of cells, and every content it can come to when threads change it at once.

use std::collections::HashSet;

/// Bytes of a cell: of five at once an fsync makes chunks, of four log.
pub const CELL: usize = 16 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Write {
        at: usize,
        cells: usize,
        byte: u8,
    },
    Truncate {
        cells: usize,
    },
    Fsync,
    Tick,
    Checkpoint,
    Read,
    /// Something durable beside the file: the log is flushed, whatever of the file is in it.
    Beside,
}

impl Op {
    fn apply(self, file: &mut Vec<u8>) {
        match self {
            Op::Write { at, cells, byte } => {
                file.resize(file.len().max(at + cells), 0);
                file[at..at + cells].fill(byte);
            }
            Op::Truncate { cells } => file.resize(cells, 0),
            Op::Fsync | Op::Tick | Op::Checkpoint | Op::Read | Op::Beside => {}
        }
    }
}

/// How far each thread is in its program.
pub type Progress = Vec<usize>;

/// All contents that some order of the programs' operations gives when each thread has done at
/// least `least` and at most `most` of its own.
pub fn contents(programs: &[Vec<Op>], least: &[usize], most: &[usize]) -> HashSet<Vec<u8>> {
    let mut seen = HashSet::new();
    let mut pending: Vec<(Progress, Vec<u8>)> = vec![(vec![0; programs.len()], Vec::new())];
    while let Some((progress, file)) = pending.pop() {
        if !seen.insert((progress.clone(), file.clone())) {
            continue;
        }
        for (thread, program) in programs.iter().enumerate() {
            if progress[thread] < most[thread] {
                let (mut progress, mut file) = (progress.clone(), file.clone());
                program[progress[thread]].apply(&mut file);
                progress[thread] += 1;
                pending.push((progress, file));
            }
        }
    }
    let far = |progress: &Progress| progress.iter().zip(least).all(|(is, least)| is >= least);
    let reached = seen.into_iter().filter(|(progress, _)| far(progress));
    reached.map(|(_, file)| file).collect()
}

/// The cells of a file's bytes.
pub fn cells(bytes: &[u8]) -> Vec<u8> {
    let cell = |cell: &[u8]| {
        assert!(
            cell.len() == CELL && cell.iter().all(|byte| *byte == cell[0]),
            "half a write"
        );
        cell[0]
    };
    bytes.chunks(CELL).map(cell).collect()
}
