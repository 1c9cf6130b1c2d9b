//! Where the daemon listens for other machines.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::ConfigError;
use crate::control::tcp::{Identity, TcpOptions};

#[derive(Debug, Args)]
pub(super) struct ControlTcpArgs {
    /// Listen here too for those who have the token, as for a CSI driver on another machine.
    #[arg(long, value_name = "ADDRESS:PORT", requires = "control_token_file")]
    control_tcp: Option<SocketAddr>,
    /// The token, as the only line of a file that nobody else may read: 16 characters or more.
    #[arg(long, value_name = "FILE", requires = "control_tcp")]
    control_token_file: Option<PathBuf>,
    /// The certificate that the daemon shows, in PEM form, with those above it if there are any.
    #[arg(long, value_name = "FILE", requires = "control_key")]
    control_cert: Option<PathBuf>,
    /// Its private key, in PEM form, in a file that nobody else may read.
    #[arg(long, value_name = "FILE", requires = "control_cert")]
    control_key: Option<PathBuf>,
    /// No TLS: only for an address of the loopback interface.
    #[arg(long, requires = "control_tcp", conflicts_with = "control_cert")]
    control_plaintext: bool,
}

impl ControlTcpArgs {
    /// What was asked for; `None` where nothing was.
    ///
    /// # Errors
    /// When others could read what is sent.
    pub(super) fn options(self) -> Result<Option<TcpOptions>, ConfigError> {
        let refused = |reason: &str| ConfigError::Value {
            option: "--control-tcp".into(),
            reason: reason.into(),
        };
        let (Some(address), Some(token_file)) = (self.control_tcp, self.control_token_file) else {
            return match self.control_cert {
                None => Ok(None),
                Some(_) => Err(ConfigError::Missing(
                    "--control-cert says who listens, --control-tcp where: it is missing",
                )),
            };
        };
        let identity = match (self.control_cert, self.control_key) {
            (Some(cert), Some(key)) => Some(Identity { cert, key }),
            _ if !self.control_plaintext => {
                return Err(refused(
                    "it takes --control-cert and --control-key, or --control-plaintext on the \
                     loopback interface",
                ));
            }
            _ if !address.ip().is_loopback() => {
                return Err(refused(
                    "without TLS the token could be read on its way: --control-plaintext is for \
                     the loopback interface, 127.0.0.1 or [::1]",
                ));
            }
            _ => None,
        };
        Ok(Some(TcpOptions {
            address,
            token_file,
            identity,
        }))
    }
}
