//! The command line, read by hand: one optional URL, one option with a value.

use std::ffi::OsString;
use std::path::PathBuf;

use url::Url;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
Reads a remote disk image through the gibblox cache: once cold, once warm, and by 64 readers at once;
then caches it ahead beside a reader.

usage: remote_image [URL] [--cache FILE]

  URL           an image on an HTTP server that answers range requests
                (default: a generated image on a server of this program's own)
  --cache FILE  keep the cache in FILE, so that the next start is warm (default: in memory);
                delete FILE when the image at URL has changed
  -h, --help    print this

Exit code: 0 when every byte was right, 1 when something failed, 2 when the arguments make no sense.
";

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Task {
    Help,
    Read(Args),
}

/// What to read, and where to keep it.
#[derive(Debug, Default)]
pub(crate) struct Args {
    /// `None`: the image of our own server.
    pub(crate) url: Option<Url>,
    /// `None`: in memory.
    pub(crate) cache: Option<PathBuf>,
}

/// Reads the arguments after the program's name. An error is one line without a full stop.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Task, String> {
    let mut parsed = Args::default();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        // A path may be anything, but all that is looked at here is text.
        let text = arg.to_string_lossy().into_owned();
        match text.as_str() {
            "-h" | "--help" => return Ok(Task::Help),
            "--cache" => {
                let value = args.next().filter(|value| !value.is_empty());
                let path = value.ok_or("--cache needs the name of a file")?;
                if parsed.cache.replace(path.into()).is_some() {
                    return Err("--cache is given twice".into());
                }
            }
            option if option.starts_with('-') => return Err(format!("unknown option '{option}'")),
            url => {
                if parsed.url.replace(parse_url(url)?).is_some() {
                    return Err(format!("one URL is enough, '{url}' is one too many"));
                }
            }
        }
    }
    Ok(Task::Read(parsed))
}

fn parse_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("'{text}' is no URL: {error}"))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        other => Err(format!(
            "'{text}' begins with {other}: where http: or https: is expected"
        )),
    }
}
