//! The program as a browser loads it: its WebAssembly, and the JavaScript module that knows how to call it.
//!
//! This is what `wasm-bindgen --target web` does. Here it is a library, so that nothing has to be installed and the
//! versions of both halves are in one file.

use std::env;
use std::error::Error;
use std::path::PathBuf;

use wasm_bindgen_cli_support::Bindgen;

/// Both halves.
#[derive(Clone, Debug)]
pub struct Program {
    /// The module `program.js`.
    pub js: String,
    /// What it loads as `program_bg.wasm`.
    pub wasm: Vec<u8>,
}

/// Makes the glue of the program that was built last.
///
/// # Errors
///
/// Where it was not built, or by another version of wasm-bindgen.
pub fn program() -> Result<Program, Box<dyn Error>> {
    let mut glue = Bindgen::new()
        .input_path(built()?)
        .out_name("program")
        .web(true)?
        .omit_default_module_path(false)
        .typescript(false)
        .generate_output()?;
    Ok(Program {
        js: glue.js().to_owned(),
        wasm: glue.wasm_mut().emit_wasm(),
    })
}

/// Finds the program beside this one in the target directory, wherever that is.
fn built() -> Result<PathBuf, Box<dyn Error>> {
    let program = "wasm32-unknown-unknown/release/gibblox_cache_browser.wasm";
    env::current_exe()?
        .ancestors()
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            "build the program first: cargo build --release --lib --target wasm32-unknown-unknown"
                .into()
        })
}
