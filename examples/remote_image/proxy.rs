//! Keeps a proxy out of the way to our own server.
//!
//! `HttpReader` takes its proxy from the environment, and no proxy can reach the loopback of this machine. Nothing but
//! another environment helps, which a running program cannot give itself safely: so it starts itself once more.

use std::env;
use std::process::{Command, ExitCode};

const HOST: &str = "127.0.0.1";

/// Runs this program again without a proxy for loopback, where there is one, and returns how that went.
pub(crate) fn run_past_proxy() -> Option<ExitCode> {
    let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    let excepts =
        |name: &str| env::var(name).is_ok_and(|hosts| hosts.contains(HOST) || hosts == "*");
    let proxied = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]
        .into_iter()
        .any(is_set);
    if !proxied || excepts("no_proxy") || excepts("NO_PROXY") {
        return None;
    }
    let status = Command::new(env::current_exe().ok()?)
        .args(env::args_os().skip(1))
        .envs([("no_proxy", HOST), ("NO_PROXY", HOST)])
        .status()
        .ok()?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Some(ExitCode::from(code.unwrap_or(1)))
}
