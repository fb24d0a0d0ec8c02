//! An EROFS image in a partition of an ISO image behind HTTP, found by the published pipeline, cache at its head.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use gibblox_pipeline::{
    PipelineSource, PipelineSourceContent, PipelineSourceGpt, PipelineSourceGptSource,
    PipelineSourceHttpSource, encode_pipeline,
};
use url::Url;

use crate::image::{assert_file_is, image};
use crate::program::{Program, folder, skipped};
use crate::server::{PROBE, Server, bytes_of};

/// The image at `url`, as the beginning of a pipeline.
pub(crate) fn http(url: &Url) -> PipelineSource {
    PipelineSource::Http(PipelineSourceHttpSource {
        http: url.to_string(),
        cors_safelisted_mode: false,
        content: Some(unchecked_content()),
    })
}

/// A pipeline has to say what the content is; nobody compares it.
pub(crate) fn unchecked_content() -> PipelineSourceContent {
    PipelineSourceContent {
        digest: format!("sha512:{}", "0".repeat(128)),
        size_bytes: 0,
    }
}

/// Writes `source` to a file in `folder`.
pub(crate) fn write(source: &PipelineSource, folder: &Path) -> PathBuf {
    let path = folder.join("pipeline");
    fs::write(&path, encode_pipeline(source).unwrap()).unwrap();
    path
}

/// Runs a tool of the system; `false` where there is none of this name.
fn made_by(command: &mut Command) -> bool {
    match command.output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{command:?}: {said}");
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{command:?}");
            false
        }
    }
}

#[test]
fn a_pipeline_with_its_cache_at_the_head_finds_the_file_system_inside() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let (files, erofs, iso) = (at("files"), at("root.erofs"), at("disk.iso"));
    fs::create_dir(&files).unwrap();
    for seed in 0..20 {
        let len = 1000 + usize::try_from(seed).unwrap() * 7000;
        fs::write(files.join(format!("file {seed}")), &**image(seed, len)).unwrap();
    }
    if !made_by(Command::new("mkfs.erofs").arg(&erofs).arg(&files)) {
        return skipped("erofs-utils is not installed here");
    }
    let mut xorriso = Command::new("xorriso");
    xorriso.args(["-as", "mkisofs", "-o"]).arg(&iso);
    xorriso.args(["-append_partition", "2", "0x83"]).arg(&erofs);
    xorriso.arg("-appended_part_as_gpt").arg(&files);
    if !made_by(&mut xorriso) {
        return skipped("xorriso is not installed here");
    }

    let server = Server::start(fs::read(&iso).unwrap().into());
    let pipeline = write(
        &PipelineSource::Gpt(PipelineSourceGptSource {
            gpt: PipelineSourceGpt {
                partlabel: None,
                partuuid: None,
                index: Some(1),
                source: Box::new(http(&server.url())),
                content: None,
            },
        }),
        folder.path(),
    );
    let output = at("output");
    let run = || {
        let mut program = Command::new(env!("CARGO_BIN_EXE_pipeline"));
        program.arg(&pipeline).arg(&output);
        Program::start(program.env("XDG_CACHE_HOME", folder.path())).succeed();
        assert_file_is(&output, &fs::read(&erofs).unwrap(), 512);
        let asked = server.take_asked();
        assert_eq!(asked[0], PROBE);
        bytes_of(&asked[1..])
    };
    // Cold: the partition and a few sectors of its table. Warm: nothing, not even the table.
    let partition = fs::metadata(&erofs).unwrap().len();
    let fetched = run();
    assert!(
        (partition..partition + (64 << 10)).contains(&fetched),
        "{fetched} of {partition}"
    );
    assert_eq!(run(), 0);
}
