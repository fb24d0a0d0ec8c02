//! `serve [PORT]`: serves the page and an image of 8 MiB for a browser of yours, until it is interrupted.

use std::env;
use std::error::Error;
use std::future;

use gibblox_cache_browser::glue::program;
use gibblox_cache_browser::server::Server;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = env::args().nth(1).map_or(Ok(8000), |port| port.parse())?;
    let image = (0..8_u32 << 20)
        .map(|at| (at ^ (at >> 12)).to_le_bytes()[0])
        .collect();
    let server = Server::start(port, program()?, image).await?;
    println!("{}", server.url());
    future::pending().await
}
