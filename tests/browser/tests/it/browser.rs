//! A headless Chromium, driven over `WebDriver`: HTTP with JSON, as chromedriver speaks it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long anything may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with a profile. [`quit`](Self::quit) it: one that is dropped is killed.
pub(crate) struct Browser {
    /// The driver, which leads a process group that the browser belongs to. `None` once both have ended.
    driver: Option<Child>,
    port: u16,
    session: String,
}

impl Browser {
    /// Starts one on what is left in `profile` by the one before.
    pub(crate) async fn start(profile: &Path) -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("chromedriver starts");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = loop {
            let line = lines.next_line().await.unwrap().expect("it says its port");
            if let Some((_, port)) = line.rsplit_once("successfully on port ") {
                break port.trim_end_matches('.').parse().unwrap();
            }
        };
        // It must not find its standard output closed.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let mut browser = Self {
            driver: Some(driver),
            port,
            session: String::new(),
        };
        let started = browser.send(Method::POST, "", json!({ "capabilities": { "alwaysMatch": {
            "timeouts": { "script": PATIENCE.as_millis() },
            "goog:chromeOptions": { "args": [
                "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
                "--disable-background-networking", "--disable-component-update", "--no-proxy-server",
                "--disable-dev-shm-usage", "--disable-breakpad", format!("--user-data-dir={}", profile.display()),
            ] },
        } } })).await;
        browser.session = format!("/{}", started["sessionId"].as_str().unwrap());
        browser
    }

    /// Opens `url` in the current tab. The page has loaded then, but its worker is only starting.
    pub(crate) async fn navigate(&self, url: &str) {
        self.post("/url", json!({ "url": url })).await;
    }

    /// Loads the page in the current tab again.
    pub(crate) async fn reload(&self) {
        self.post("/refresh", json!({})).await;
    }

    /// Opens an empty tab, makes it the current one, and returns what it is called.
    pub(crate) async fn new_tab(&self) -> String {
        let tab = self.post("/window/new", json!({ "type": "tab" })).await;
        let tab = tab["handle"].as_str().unwrap().to_owned();
        self.switch_to(&tab).await;
        tab
    }

    /// What the current tab is called.
    pub(crate) async fn tab(&self) -> String {
        let tab = self.send(Method::GET, "/window", Value::Null).await;
        tab.as_str().unwrap().to_owned()
    }

    pub(crate) async fn switch_to(&self, tab: &str) {
        self.post("/window", json!({ "handle": tab })).await;
    }

    /// Closes the current tab. Another one has to be made the current one.
    pub(crate) async fn close_tab(&self) {
        self.send(Method::DELETE, "/window", Value::Null).await;
    }

    /// Runs the body of an `async` function in the current tab and returns its result.
    pub(crate) async fn run(&self, body: &str) -> Value {
        let script = format!(
            "const done = arguments[0];
            (async () => {{ {body} }})().then(done, (error) => done({{ error: String(error) }}));"
        );
        let command = json!({ "script": script, "args": [] });
        self.post("/execute/async", command).await
    }

    /// Waits for the report of the page in the current tab.
    pub(crate) async fn report(&self) -> Value {
        self.run("return await report;").await
    }

    /// Sends a command of the `DevTools` protocol.
    pub(crate) async fn devtools(&self, command: &str, params: Value) {
        let command = json!({ "cmd": command, "params": params });
        self.post("/goog/cdp/execute", command).await;
    }

    /// Closes the browser as a person does.
    pub(crate) async fn quit(self) {
        self.send(Method::DELETE, "", Value::Null).await;
    }

    /// Kills the browser, all of its processes at once.
    pub(crate) async fn kill(mut self) {
        let mut driver = self.kill_group().expect("it runs");
        driver.wait().await.unwrap();
    }

    fn kill_group(&mut self) -> Option<Child> {
        let driver = self.driver.take()?;
        // The library has no signals for groups, but every shell has.
        let kill = format!("kill -KILL -{}", driver.id()?);
        let killed = std::process::Command::new("sh")
            .args(["-c", &kill])
            .status();
        assert!(killed.unwrap().success() || std::thread::panicking());
        Some(driver)
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.send(Method::POST, path, body).await
    }

    async fn send(&self, method: Method, path: &str, body: Value) -> Value {
        let what = format!("{method} {path} {body}");
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("/session{}{path}", self.session))
            .header(HOST, "localhost")
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let answer = timeout(PATIENCE * 2, async {
            let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            let answer = sender.send_request(request).await.unwrap();
            answer.into_body().collect().await.unwrap().to_bytes()
        });
        let answer = answer.await.unwrap_or_else(|_| panic!("{what}: no answer"));
        let mut answer: Value = serde_json::from_slice(&answer).unwrap();
        let value = answer["value"].take();
        assert!(
            value.get("stacktrace").is_none(),
            "{what}: {}",
            value["message"]
        );
        value
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.kill_group();
    }
}
