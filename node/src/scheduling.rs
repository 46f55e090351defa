//! Shares scarce resources among clients and background work.
//!
//! | to find | look in |
//! |---|---|
//! | which request is served next | [`fair`] |
//! | how much memory requests may hold | [`budget`] |
//! | which client network a request belongs to | [`source`] |
//! | threads for CPU-bound work | [`workers`] |
//! | background tasks that run in rounds | [`background`] |

pub mod background;
pub mod budget;
pub mod fair;
pub mod source;
pub mod workers;
