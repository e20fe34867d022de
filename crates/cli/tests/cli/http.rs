//! A server under test, and a small HTTP client.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::Child,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::common::program;

/// The longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `tweedie serve`, which is killed when dropped.
pub struct Served {
    child: Child,
    pub address: String,
    /// Jobs of an earlier run that go on.
    pub resumed: u64,
    errors: std::path::PathBuf,
}

/// A response.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// It must have this status.
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }
}

/// An event of a stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    pub id: String,
    pub name: String,
    pub data: Value,
}

impl Served {
    /// Starts a server in `folder`, with its data in `data` there.
    pub fn start(folder: &Path, args: &[&str]) -> Self {
        let all = [&["serve", "--json", "--listen", "127.0.0.1:0", "--data-dir", "data"], args].concat();
        let errors = folder.join(format!("serve-{}.log", uuid()));
        let mut command = program(folder, &all);
        command.stderr(std::fs::File::create(&errors).unwrap());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: Value = serde_json::from_str(&line).unwrap_or_else(|e| {
            panic!("{e}: {line}{}", std::fs::read_to_string(&errors).unwrap_or_default())
        });
        let address = told["listening"].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
        Self { child, address, resumed: told["resumed"].as_u64().unwrap(), errors }
    }

    /// The id of the process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end, and returns the exit code.
    pub fn code(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < PATIENCE, "the server does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn connect(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head += &format!("Host: {}\r\n", self.address);
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        // A server that rejects a long body need not read it.
        let _ = stream.write_all(&[head.as_bytes(), b"\r\n", body].concat());
        BufReader::new(stream)
    }

    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let mut stream = self.connect(method, path, headers, body);
        let (status, headers) = head(&mut stream);
        let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let mut body = Vec::new();
        if chunked {
            while let Some(mut part) = chunk(&mut stream) {
                body.append(&mut part);
            }
        } else {
            let length = headers.iter().find(|(name, _)| name == "content-length");
            let length = length.map_or(0, |(_, value)| value.parse().unwrap());
            stream.take(length).read_to_end(&mut body).unwrap();
        }
        Response { status, headers, body }
    }

    pub fn get(&self, path: &str) -> Response {
        self.send("GET", path, &[], b"")
    }

    pub fn delete(&self, path: &str) -> Response {
        self.send("DELETE", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.send("POST", path, &[("Content-Type", "application/json")], body.to_string().as_bytes())
    }

    /// Orders a job and returns its name.
    pub fn order(&self, request: &Value) -> String {
        self.post("/v1/jobs", request).is(202).json()["id"].as_str().unwrap().to_owned()
    }

    /// Waits for the end of a job.
    pub fn ended(&self, id: &str) -> Value {
        let begun = Instant::now();
        loop {
            let job = self.get(&format!("/v1/jobs/{id}")).is(200).json();
            if ["finished", "failed", "cancelled"].contains(&job["state"].as_str().unwrap()) {
                return job;
            }
            assert!(begun.elapsed() < PATIENCE, "{job}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The results of a job, once it has finished.
    pub fn results(&self, id: &str) -> Vec<Vec<u8>> {
        let job = self.ended(id);
        assert_eq!(job["state"], json!("finished"), "{job}");
        let images = job["images"].as_array().unwrap();
        images.iter().map(|image| self.get(image["url"].as_str().unwrap()).is(200).body).collect()
    }

    /// The events of a job until `until` says so or the stream ends.
    pub fn events(&self, id: &str, headers: &[(&str, &str)], until: impl Fn(&Event) -> bool) -> Vec<Event> {
        events(&mut self.connect("GET", &format!("/v1/jobs/{id}/events"), headers, b""), until)
    }

    /// The events that answer a request.
    pub fn stream(&self, method: &str, path: &str, body: &Value) -> Vec<Event> {
        let headers = [("Content-Type", "application/json")];
        events(&mut self.connect(method, path, &headers, body.to_string().as_bytes()), |_| false)
    }
}

fn events(stream: &mut impl BufRead, until: impl Fn(&Event) -> bool) -> Vec<Event> {
    assert_eq!(head(stream).0, 200);
    let (mut text, mut events) = (String::new(), Vec::new());
    while let Some(part) = chunk(stream) {
        text += std::str::from_utf8(&part).unwrap();
        while let Some((event, rest)) = text.split_once("\n\n") {
            let mut read = Event::default();
            for line in event.lines() {
                match line.split_once(": ") {
                    Some(("id", value)) => read.id = value.into(),
                    Some(("event", value)) => read.name = value.into(),
                    Some(("data", value)) => read.data = serde_json::from_str(value).unwrap(),
                    _ => {}
                }
            }
            text = rest.to_owned();
            if !read.name.is_empty() {
                events.push(read);
                if until(&events[events.len() - 1]) {
                    return events;
                }
            }
        }
    }
    events
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = std::fs::read_to_string(&self.errors).unwrap_or_default();
        if !std::thread::panicking() {
            assert!(!log.contains("panicked"), "{log}");
        }
    }
}

fn uuid() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos()
}

fn head(stream: &mut impl BufRead) -> (u16, Vec<(String, String)>) {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        if line.trim_end().is_empty() {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let status = lines.first().expect("a response").split(' ').nth(1).unwrap().parse().unwrap();
    let pair = |line: &String| line.split_once(": ").map(|(a, b)| (a.to_ascii_lowercase(), b.to_owned()));
    (status, lines.iter().skip(1).filter_map(pair).collect())
}

fn chunk(stream: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    let length = usize::from_str_radix(line.trim(), 16).ok().filter(|length| *length > 0)?;
    let mut part = vec![0; length + 2];
    stream.read_exact(&mut part).ok()?;
    part.truncate(length);
    Some(part)
}

/// A form of a text and files, with its content type.
pub fn form(text: (&str, &str), files: &[(&str, &[u8])]) -> (String, Vec<u8>) {
    let part = |name: &str, more: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"{more}\r\n\r\n").into_bytes()
    };
    let mut body = [part(text.0, ""), text.1.into(), b"\r\n".into()].concat();
    for (name, bytes) in files {
        body.extend([&part(name, "; filename=\"a\""), *bytes, b"\r\n"].concat());
    }
    body.extend(b"--b--\r\n");
    ("multipart/form-data; boundary=b".into(), body)
}
