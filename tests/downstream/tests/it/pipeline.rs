//! File systems in images in images behind HTTP, found by the published pipeline, cache at its head.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use gibblox_pipeline::{
    PipelineSource, PipelineSourceContent, PipelineSourceGpt, PipelineSourceGptSource,
    PipelineSourceHttpSource, PipelineSourceMbr, PipelineSourceMbrSource, encode_pipeline,
};
use tempfile::TempDir;
use url::Url;

use crate::image::{assert_file_is, disk_with, image};
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

/// An EROFS image, and an ISO image with the same files and with the EROFS image as its second partition.
struct Images {
    folder: TempDir,
    erofs: Vec<u8>,
    iso: Vec<u8>,
}

impl Images {
    /// `None` where a tool is missing.
    fn make() -> Option<Self> {
        let folder = folder();
        let at = |name: &str| folder.path().join(name);
        let (files, erofs, iso) = (at("files"), at("root.erofs"), at("disk.iso"));
        fs::create_dir(&files).unwrap();
        for seed in 0..20 {
            let len = 1000 + usize::try_from(seed).unwrap() * 7000;
            fs::write(files.join(format!("file {seed}")), &**image(seed, len)).unwrap();
        }
        if !made_by(Command::new("mkfs.erofs").arg(&erofs).arg(&files)) {
            skipped("erofs-utils is not installed here");
            return None;
        }
        let mut xorriso = Command::new("xorriso");
        xorriso.args(["-as", "mkisofs", "-o"]).arg(&iso);
        xorriso.args(["-append_partition", "2", "0x83"]).arg(&erofs);
        xorriso.arg("-appended_part_as_gpt").arg(&files);
        if !made_by(&mut xorriso) {
            skipped("xorriso is not installed here");
            return None;
        }
        let [erofs, iso] = [erofs, iso].map(|path| fs::read(path).unwrap());
        // They are what they should be: the magic numbers stand where the two formats want them.
        assert_eq!(erofs[1024..1028], 0xe0f5_e1e2_u32.to_le_bytes());
        assert_eq!(iso[0x8001..0x8006], *b"CD001");
        Some(Self { folder, erofs, iso })
    }

    /// Runs `pipeline` with its cache at the head and compares what it yields with `expected`, cold and then warm, in
    /// which nothing is fetched.
    #[track_caller]
    fn find(&self, pipeline: &PipelineSource, server: &Server, expected: &[u8]) {
        let pipeline = write(pipeline, self.folder.path());
        let output = self.folder.path().join("output");
        let run = || {
            let mut program = Command::new(env!("CARGO_BIN_EXE_pipeline"));
            program.arg(&pipeline).arg(&output);
            Program::start(program.env("XDG_CACHE_HOME", self.folder.path())).succeed();
            assert_file_is(&output, expected, 512);
            let asked = server.take_asked();
            assert_eq!(asked[0], PROBE);
            bytes_of(&asked[1..])
        };
        // Cold: what it yields, and a few sectors of the tables around it. Warm: nothing, not even the tables.
        let len = expected.len() as u64;
        let fetched = run();
        assert!(
            (len..len + (64 << 10)).contains(&fetched),
            "{fetched} of {len}"
        );
        assert_eq!(run(), 0);
    }
}

/// The partition with this index of `source`, by the newer kind of table.
fn gpt(index: u32, source: PipelineSource) -> PipelineSource {
    PipelineSource::Gpt(PipelineSourceGptSource {
        gpt: PipelineSourceGpt {
            partlabel: None,
            partuuid: None,
            index: Some(index),
            source: Box::new(source),
            content: None,
        },
    })
}

/// The first partition of `source`, by the older kind of table.
pub(crate) fn mbr(source: PipelineSource) -> PipelineSource {
    PipelineSource::Mbr(PipelineSourceMbrSource {
        mbr: PipelineSourceMbr {
            partuuid: None,
            index: Some(0),
            source: Box::new(source),
            content: None,
        },
    })
}

#[test]
fn a_pipeline_with_its_cache_at_the_head_finds_the_file_system_in_an_iso_image() {
    let Some(images) = Images::make() else { return };
    let server = Server::start(images.iso.clone().into());
    images.find(&gpt(1, http(&server.url())), &server, &images.erofs);
}

#[test]
fn a_pipeline_with_its_cache_at_the_head_finds_the_iso_image_on_a_disk() {
    let Some(images) = Images::make() else { return };
    let server = Server::start(disk_with(&images.iso).into());
    images.find(&mbr(http(&server.url())), &server, &images.iso);
}

#[test]
fn a_pipeline_with_its_cache_at_the_head_finds_the_file_system_in_the_iso_image_on_a_disk() {
    let Some(images) = Images::make() else { return };
    let server = Server::start(disk_with(&images.iso).into());
    images.find(&gpt(1, mbr(http(&server.url()))), &server, &images.erofs);
}
