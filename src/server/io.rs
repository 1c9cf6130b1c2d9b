//! Where a request comes from and its reply goes: memory that a transport shares with a kernel.

use std::io;

use fuse_backend_rs::transport::{Reader, Writer};
use vm_memory::bitmap::BitmapSlice;

/// A request's bytes. Each is read once.
pub trait Input {
    /// Bytes that have not been read.
    fn available_bytes(&self) -> usize;

    /// Takes the next bytes.
    ///
    /// # Errors
    /// When there are fewer.
    fn read_exact(&mut self, buf: &mut [u8]) -> io::Result<()>;
}

/// Room for a reply, filled from its start.
pub trait Output: Sized {
    /// Bytes that still fit.
    fn available_bytes(&self) -> usize;

    /// Puts bytes behind those put before.
    ///
    /// # Errors
    /// When there is not enough room.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Leaves the next `at` bytes here; what is behind them is the result's.
    ///
    /// # Errors
    /// When there are fewer.
    fn split_at(&mut self, at: usize) -> io::Result<Self>;

    /// Sends what was put here and into `rest`, which was split off. A reply that was not split is
    /// sent by its [`Output::write_all`].
    ///
    /// # Errors
    /// When it cannot be sent.
    fn commit(&mut self, rest: Option<&Self>) -> io::Result<()>;
}

impl<S: BitmapSlice> Input for Reader<'_, S> {
    fn available_bytes(&self) -> usize {
        Reader::available_bytes(self)
    }

    fn read_exact(&mut self, buf: &mut [u8]) -> io::Result<()> {
        io::Read::read_exact(self, buf)
    }
}

impl<S: BitmapSlice> Output for Writer<'_, S> {
    fn available_bytes(&self) -> usize {
        Writer::available_bytes(self)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::Write::write_all(self, bytes)
    }

    fn split_at(&mut self, at: usize) -> io::Result<Self> {
        Writer::split_at(self, at).map_err(io::Error::other)
    }

    fn commit(&mut self, rest: Option<&Self>) -> io::Result<()> {
        Writer::commit(self, rest).map(|_| ())
    }
}
