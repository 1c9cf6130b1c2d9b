//! Stands in for the engine's data operations until they are there.

use crate::engine::{EngineError, Fallocate, Seek, Sink, Source, Volume, WriteFlags};
use crate::format::id::Ino;

type R<T> = Result<T, EngineError>;

pub(super) trait Pending {
    fn p_read(&self, _: Ino, _: u64, _: usize, _: &mut dyn Sink) -> R<()> {
        Err(EngineError::NotSupported("not yet"))
    }
    fn p_write(&self, _: Ino, _: u64, _: usize, _: &mut dyn Source, _: WriteFlags) -> R<()> {
        Err(EngineError::NotSupported("not yet"))
    }
    fn p_fsync(&self, _: Ino, _: bool) -> R<()> {
        Err(EngineError::NotSupported("not yet"))
    }
    fn p_fsync_dir(&self, _: Ino) -> R<()> {
        Err(EngineError::NotSupported("not yet"))
    }
    fn p_sync_all(&self) -> R<()> {
        Err(EngineError::NotSupported("not yet"))
    }
    fn p_fallocate(&self, _: Ino, _: Fallocate, _: u64, _: u64) -> R<()> {
        Err(EngineError::NotSupported("not yet"))
    }
    fn p_seek(&self, _: Ino, _: u64, _: Seek) -> R<u64> {
        Err(EngineError::NotSupported("not yet"))
    }
    fn p_copy_range(&self, _: Ino, _: u64, _: Ino, _: u64, _: u64) -> R<u64> {
        Err(EngineError::NotSupported("not yet"))
    }
}

impl Pending for Volume {}
