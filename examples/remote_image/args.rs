//! The command line, read by hand: one optional URL, three options with a value.

use std::ffi::OsString;
use std::path::PathBuf;

use url::Url;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
Reads a remote disk image through the gibblox cache: once cold, once warm, and by 64 readers at once;
then caches it ahead beside a reader.

usage: remote_image [URL] [--cache FILE | --cache-dir DIR [--max SIZE]]

  URL              an image on an HTTP server that answers range requests
                   (default: a generated image on this program's own server)
  --cache FILE     keep the cache in FILE, so that the next start is warm
                   (default: in memory); delete FILE when the image has changed
  --cache-dir DIR  keep the caches of many images in DIR; print what it holds
  --max SIZE       the room that DIR may take: bytes, or with K, M, G or T at the
                   end; what was not used for the longest time is deleted
  -h, --help       print this

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
    /// `None`: in memory, or in a directory.
    pub(crate) cache: Option<PathBuf>,
    pub(crate) cache_dir: Option<PathBuf>,
    /// Of the directory, in bytes.
    pub(crate) max_bytes: Option<u64>,
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
            "--cache-dir" => {
                let value = args.next().filter(|value| !value.is_empty());
                let path = value.ok_or("--cache-dir needs the name of a directory")?;
                if parsed.cache_dir.replace(path.into()).is_some() {
                    return Err("--cache-dir is given twice".into());
                }
            }
            "--max" => {
                let value = args.next().unwrap_or_default();
                let bytes = parse_size(&value.to_string_lossy())?;
                if parsed.max_bytes.replace(bytes).is_some() {
                    return Err("--max is given twice".into());
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
    if parsed.cache.is_some() && parsed.cache_dir.is_some() {
        return Err("--cache and --cache-dir do not go together".into());
    }
    if parsed.max_bytes.is_some() && parsed.cache_dir.is_none() {
        return Err("--max is of use with --cache-dir only".into());
    }
    Ok(Task::Read(parsed))
}

fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last().map(u8::to_ascii_uppercase) {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        Some(b'T') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let count = digits.parse::<u64>().ok();
    count
        .and_then(|count| count.checked_mul(1 << shift))
        .ok_or_else(|| format!("--max needs a size such as 500M, and '{text}' is none"))
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
