//! The cached permissions of a user, as stored in Redis.

use std::io;

use schema::{
    Timestamp,
    permission::{Effective, Permission, Role},
};
use serde::{Deserialize, Serialize};

use crate::seal::TAG_BYTES;

/// Limit of the length of a value with its MAC, in bytes. A longer one is not cached.
pub(crate) const MAX_BYTES: usize = 256 * 1024;

#[derive(Deserialize)]
pub(crate) struct Entry {
    /// A time before the read of the store began, by the clock of the node that read it.
    pub(crate) loaded_at: Timestamp,
    roles: Vec<Role>,
    direct: Vec<Permission>,
    combined: Vec<Permission>,
}

#[derive(Serialize)]
struct EntryRef<'a> {
    loaded_at: Timestamp,
    roles: &'a [Role],
    direct: &'a [Permission],
    combined: &'a [Permission],
}

impl Entry {
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    pub(crate) fn effective(self) -> Effective {
        Effective { roles: self.roles, direct: self.direct, combined: self.combined }
    }

    /// The bytes of an entry; `None` if they exceed the limit. Serialization stops there.
    pub(crate) fn write(loaded_at: Timestamp, effective: &Effective) -> Option<Vec<u8>> {
        let Effective { roles, direct, combined } = effective;
        let mut body = BoundedBuffer(Vec::new());
        serde_json::to_writer(&mut body, &EntryRef { loaded_at, roles, direct, combined }).ok()?;
        Some(body.0)
    }
}

/// A buffer that rejects more bytes than an entry may have.
struct BoundedBuffer(Vec<u8>);

impl io::Write for BoundedBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_BYTES - TAG_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
