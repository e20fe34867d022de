//! `tweedie serve`: bits, cancellation, faults, limits.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

use crate::{
    common::{Scratch, finish, program},
    http::{Served, form},
};

/// Unlike requests: solvers, steps, guidance, classes, counts, sizes, seeds.
fn requests() -> Vec<Value> {
    vec![
        json!({ "seed": 1, "steps": 12, "solver": "dpmpp-2m", "guidance": 2, "classes": ["cat-face"] }),
        json!({ "seed": 2, "steps": 9, "solver": "ddpm", "guidance": 1, "count": 6 }),
        json!({ "seed": 3, "steps": 10, "solver": "unipc", "guidance": 3, "classes": [3, 5], "count": 3 }),
        json!({ "seed": 4, "steps": 6, "solver": "heun", "count": 2, "guidance_rescale": 0.5, "guidance": 1.5 }),
        json!({ "seed": 5, "steps": 5, "solver": "dpm-adaptive", "count": 2, "guidance": 2 }),
        json!({ "seed": 6, "steps": 8, "size": [24, 40], "count": 2 }),
        json!({ "seed": 7, "steps": 4, "prompt": ["red heart", "smiling cat"], "count": 2, "model": "emoji-text-64" }),
    ]
}

/// The files that `tweedie sample` makes of the request in `png`, in the folder of the server's data.
fn sampled(folder: &Path, png: &[u8], model: &str) -> Vec<Vec<u8>> {
    let data = folder.join("data");
    fs::write(folder.join("like.png"), png).unwrap();
    let singles = folder.join("singles");
    let _ = fs::remove_dir_all(&singles);
    let args =
        ["sample", "--model", model, "--like", "../like.png", "--singles", "../singles", "-o", "../grid.png"];
    finish(program(&data, &args)).ok();
    let mut paths: Vec<_> = fs::read_dir(&singles).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn model_of(request: &Value) -> &str {
    request["model"].as_str().unwrap_or("emoji-32")
}

#[test]
fn batching_changes_no_bit() {
    let scratch = Scratch::new();
    let served = Served::start(&scratch.path(""), &[]);
    let ids: Vec<String> = requests().iter().map(|request| served.order(request)).collect();
    for (request, id) in requests().iter().zip(&ids) {
        let results = served.results(id);
        assert_eq!(results.len() as u64, request["count"].as_u64().unwrap_or(1));
        // The same files as those of `tweedie sample`, byte for byte, with the request in them.
        assert!(results == sampled(&scratch.path(""), &results[0], model_of(request)), "{request}");
    }
    let metrics = served.get("/metrics").is(200).text();
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    // Rows of several jobs were in one call.
    assert!(value("tweedie_network_rows_total") > 2.0 * value("tweedie_network_calls_total"), "{metrics}");
    // One after the other they are the same.
    let other = Scratch::new();
    let alone = Served::start(&other.path(""), &["--no-batching"]);
    let again: Vec<String> = requests().iter().map(|request| alone.order(request)).collect();
    for (a, b) in ids.iter().zip(&again) {
        assert!(served.results(a) == alone.results(b));
    }
}

#[test]
fn cancelling_frees_the_job_and_harms_nobody() {
    let scratch = Scratch::new();
    let served = Served::start(&scratch.path(""), &[]);
    let neighbour = json!({ "seed": 9, "steps": 30, "count": 2, "solver": "ddpm" });
    let long = served.order(&json!({ "steps": 250, "count": 4, "solver": "ddpm" }));
    let other = served.order(&neighbour);
    served.events(&long, &[], |event| event.name == "step");
    let answer = served.delete(&format!("/v1/jobs/{long}")).is(200).json();
    assert_eq!(answer["state"], "cancelled");
    let events = served.events(&long, &[], |_| false);
    let last = events.last().unwrap();
    assert_eq!(last.name, "cancelled", "{last:?}");
    let steps = events.iter().filter(|event| event.name == "step").count();
    assert!(steps < 200, "{steps}");
    assert_eq!(served.ended(&long)["state"], "cancelled");
    // Cancelling what has ended changes nothing.
    served.results(&other);
    assert_eq!(served.delete(&format!("/v1/jobs/{other}")).is(200).json()["state"], "finished");
    let results = served.results(&other);
    assert!(results == sampled(&scratch.path(""), &results[0], "emoji-32"));
    served.delete("/v1/jobs/none").is(404);
}

#[test]
fn killed_and_started_again_it_finishes_everything_with_the_same_bytes() {
    let scratch = Scratch::new();
    scratch.write("serve.toml", "journal_every = 0.0\n");
    let args = ["--config", "serve.toml"];
    let served = Served::start(&scratch.path(""), &args);
    let mut requests = requests();
    requests.push(json!({ "seed": 8, "steps": 150, "count": 3, "solver": "ddpm" }));
    let ids: Vec<String> = requests.iter().map(|request| served.order(request)).collect();
    let long = ids.last().unwrap();
    let before = served.events(long, &[], |event| event.data["step"].as_u64() >= Some(60));
    served.kill();
    let served = Served::start(&scratch.path(""), &args);
    assert!(served.resumed >= 1, "{}", served.resumed);
    // It goes on where it was, or a little before.
    let numbers = [("Last-Event-ID", before.last().unwrap().id.as_str())];
    let events = served.events(long, &numbers, |event| event.name == "step");
    assert_eq!(events[0].name, "queued", "numbers of an earlier run do not count");
    let step = events.last().unwrap().data["step"].as_u64().unwrap();
    assert!(step > 20, "{step}");
    for (request, id) in requests.iter().zip(&ids) {
        let results = served.results(id);
        assert!(results == sampled(&scratch.path(""), &results[0], model_of(request)), "{request}");
    }
}

#[cfg(unix)]
#[test]
fn a_request_to_stop_is_followed_and_jobs_go_on_later() {
    let scratch = Scratch::new();
    let mut served = Served::start(&scratch.path(""), &[]);
    let id = served.order(&json!({ "seed": 3, "steps": 150, "count": 2, "solver": "ddpm" }));
    served.events(&id, &[], |event| event.data["step"].as_u64() >= Some(20));
    let process = served.process().to_string();
    assert!(Command::new("kill").args(["-TERM", &process]).status().unwrap().success());
    assert_eq!(served.code(), Some(0));
    let served = Served::start(&scratch.path(""), &[]);
    assert_eq!(served.resumed, 1);
    let events = served.events(&id, &[], |event| event.name == "step");
    assert!(events.last().unwrap().data["step"].as_u64() > Some(20), "{events:?}");
    let results = served.results(&id);
    assert!(results == sampled(&scratch.path(""), &results[0], "emoji-32"));
}

#[test]
fn the_same_key_is_the_same_job() {
    let scratch = Scratch::new();
    let served = Served::start(&scratch.path(""), &[]);
    let send = |served: &Served, request: &Value| {
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "k-1")];
        served.send("POST", "/v1/jobs", &headers, request.to_string().as_bytes())
    };
    let request = json!({ "seed": 1, "steps": 3 });
    let first = send(&served, &request).is(202).json();
    assert_eq!(send(&served, &request).is(200).json()["id"], first["id"]);
    served.results(first["id"].as_str().unwrap());
    assert_eq!(send(&served, &request).is(200).json()["state"], "finished");
    let conflict = send(&served, &json!({ "seed": 2, "steps": 3 })).is(422).json();
    assert_eq!(conflict["error"]["code"], "idempotency_conflict");
    served.kill();
    let served = Served::start(&scratch.path(""), &[]);
    assert_eq!(send(&served, &request).is(200).json()["id"], first["id"]);
    // The gallery has one job, which can be deleted with its file.
    let jobs = served.get("/v1/gallery").is(200).json()["jobs"].as_array().unwrap().clone();
    assert_eq!(jobs.len(), 1);
    let url = jobs[0]["images"][0]["url"].as_str().unwrap();
    let tag = served.get(url).is(200).header("etag").unwrap().to_owned();
    served.send("GET", url, &[("If-None-Match", &tag)], b"").is(304);
    served.delete(&format!("/v1/gallery/{}", first["id"].as_str().unwrap())).is(204);
    served.get(url).is(404);
    assert_eq!(served.get("/v1/gallery").is(200).json()["jobs"], json!([]));
}

#[test]
fn a_full_queue_is_429() {
    let scratch = Scratch::new();
    scratch.write("serve.toml", "gallery = 0\n[limits]\nqueue = 3\njobs = 2\n");
    scratch.write("tokens", "ann 0123456789abcdef\nbob fedcba9876543210\n");
    let served = Served::start(&scratch.path(""), &["--config", "serve.toml", "--tokens", "tokens"]);
    let long = json!({ "steps": 250, "count": 8, "solver": "ddpm" }).to_string();
    let send = |token: &str| {
        let headers = [("Content-Type", "application/json"), ("Authorization", token)];
        served.send("POST", "/v1/jobs", &headers, long.as_bytes())
    };
    let (ann, bob) = ("Bearer 0123456789abcdef", "Bearer fedcba9876543210");
    let id = send(ann).is(202).json()["id"].as_str().unwrap().to_owned();
    send(ann).is(202);
    let full = send(ann).is(429);
    assert!(full.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    assert!(full.text().contains("you have 2 jobs"), "{}", full.text());
    send(bob).is(202);
    assert!(send(bob).is(429).text().contains("the queue is full"));
    served.get("/readyz").is(503);
    served.get("/healthz").is(200);
    // Clients do not see each other's jobs.
    let path = format!("/v1/jobs/{id}");
    served.send("GET", &path, &[("Authorization", bob)], b"").is(404);
    served.send("DELETE", &path, &[("Authorization", bob)], b"").is(404);
    let denied = served.get(&path).is(401);
    assert_eq!(denied.header("www-authenticate"), Some("Bearer"));
    assert_eq!(denied.json()["error"]["type"], "authentication_error");
    served.send("DELETE", &path, &[("Authorization", ann)], b"").is(200);
    served.send("GET", "/v1/jobs/x/events", &[("Authorization", "Basic eA==")], b"").is(401);
}

#[test]
fn a_deadline_ends_a_job() {
    let scratch = Scratch::new();
    let served = Served::start(&scratch.path(""), &[]);
    let id = served.order(&json!({ "steps": 250, "count": 8, "solver": "ddpm", "deadline": 0.3 }));
    let job = served.ended(&id);
    assert_eq!(
        (&job["state"], &job["error"]["code"]),
        (&json!("failed"), &json!("deadline_exceeded")),
        "{job}"
    );
}

#[test]
fn events_go_on_after_the_last_one() {
    let scratch = Scratch::new();
    let served = Served::start(&scratch.path(""), &[]);
    let id = served.order(&json!({ "seed": 1, "steps": 120, "count": 2, "solver": "ddpm" }));
    let first = served.events(&id, &[], |event| event.data["step"].as_u64() >= Some(10));
    assert_eq!(first[0].name, "queued");
    assert!(first.iter().any(|event| event.name == "preview"), "{first:?}");
    let last = first.last().unwrap();
    let rest = served.events(&id, &[("Last-Event-ID", &last.id)], |_| false);
    let number = |event: &crate::http::Event| event.id.rsplit_once('-').unwrap().1.parse::<u64>().unwrap();
    assert_eq!(number(&rest[0]), number(last) + 1);
    let steps = |events: &[crate::http::Event]| -> Vec<u64> {
        events.iter().filter(|e| e.name == "step").map(|e| e.data["step"].as_u64().unwrap()).collect()
    };
    let all = [steps(&first), steps(&rest)].concat();
    assert_eq!(all, (1..=120).collect::<Vec<_>>(), "{all:?}");
    let end = rest.last().unwrap();
    assert_eq!((end.name.as_str(), end.data["images"].as_array().unwrap().len()), ("finished", 2));
    // Somebody who comes later gets the end.
    let late = served.events(&id, &[], |_| false);
    assert_eq!(late.last().unwrap().name, "finished");
}

#[test]
fn every_image_has_previews() {
    let scratch = Scratch::new();
    scratch.write("serve.toml", "preview_every = 0.0\n");
    let served = Served::start(&scratch.path(""), &["--config", "serve.toml"]);
    let id = served.order(&json!({ "seed": 1, "steps": 60, "count": 9, "solver": "ddpm", "guidance": 1 }));
    let events = served.events(&id, &[], |_| false);
    let previews = events.iter().filter(|event| event.name == "preview");
    let mut images: Vec<u64> = previews.map(|event| event.data["image"].as_u64().unwrap()).collect();
    images.sort_unstable();
    images.dedup();
    assert_eq!(images, (0..9).collect::<Vec<_>>());
}

#[test]
fn pictures_are_uploaded_and_never_named_by_path() {
    let scratch = Scratch::new();
    let served = Served::start(&scratch.path(""), &[]);
    let id = served.order(&json!({ "seed": 1, "steps": 4, "classes": ["cat-face"] }));
    let cat = served.results(&id).remove(0);
    let request = r#"{"seed": 5, "steps": 8, "strength": 0.5, "classes": ["food-fruit"]}"#;
    let (kind, body) = form(("request", request), &[("image", &cat)]);
    let job = served.send("POST", "/v1/jobs", &[("Content-Type", &kind)], &body).is(202).json();
    let results = served.results(job["id"].as_str().unwrap());
    // The metadata names the upload by its content, below the data folder.
    assert!(results == sampled(&scratch.path(""), &results[0], "emoji-32"));
    // A result can be used by its hash.
    let hash = served.ended(&id)["images"][0]["sha256"].clone();
    let mut again: Value = serde_json::from_str(request).unwrap();
    again["image"] = json!({ "sha256": hash });
    assert!(served.results(&served.order(&again)) == results);
    // The same as an upload of its own.
    let upload = served.send("POST", "/v1/uploads", &[], &cat).is(201).json();
    assert_eq!(upload["sha256"], hash);
    let sha256 = upload["sha256"].as_str().unwrap();
    assert!(served.get(&format!("/v1/uploads/{sha256}")).is(200).body == cat);
    served.get("/v1/uploads/limits.toml").is(404);
    served.send("POST", "/v1/uploads", &[], b"").is(400);
    for (name, value) in [
        ("image", json!({ "path": "/etc/passwd" })),
        ("noise", json!({ "path": "like.png", "sha256": hash })),
        ("loras", json!([{ "file": { "path": "a" }, "scale": 1 }])),
    ] {
        let error = served.post("/v1/jobs", &json!({ name: value })).is(400).json();
        assert_eq!(error["error"]["param"], name);
        assert!(error["error"]["message"].as_str().unwrap().contains("cannot name a file"), "{error}");
    }
    let (kind, body) = form(("request", "{}"), &[("image", b"no picture")]);
    let error = served.send("POST", "/v1/jobs", &[("Content-Type", &kind)], &body).is(400).text();
    assert!(error.contains("image") && !error.contains(scratch.path("").to_str().unwrap()), "{error}");
}

#[test]
fn bad_requests_are_told_and_harm_nothing() {
    let scratch = Scratch::new();
    scratch.write("serve.toml", "[limits]\nbody = 2000\ncount = 16\npixels = 20000\nsteps = 100\n");
    let served = Served::start(&scratch.path(""), &["--config", "serve.toml"]);
    let json_type = [("Content-Type", "application/json")];
    for (body, status, words) in [
        ("", 400, "the JSON is invalid"),
        ("[1]", 400, "the JSON is invalid"),
        ("{\"seed\": 1", 400, "the JSON is invalid"),
        ("{\"seed\": -1}", 400, "request: invalid value"),
        ("{\"step\": 3}", 400, "unknown field `step`"),
        ("{\"steps\": 0}", 400, "nonzero"),
        ("{\"steps\": 101}", 400, "`steps`: 101: this server allows at most 100"),
        ("{\"count\": 17}", 400, "`count`: 17: this server allows at most 16"),
        ("{\"size\": [128, 160]}", 400, "allows at most 20000"),
        ("{\"size\": [18446744073709551615, 2]}", 400, "allows at most 20000"),
        ("{\"size\": [33, 32]}", 400, "`size`"),
        ("{\"solver\": \"eulr\"}", 400, "eulr"),
        ("{\"classes\": [\"unicorn\"]}", 400, "unknown class `unicorn`"),
        ("{\"prompt\": \"a cat\"}", 400, "`prompt`"),
        ("{\"guidance\": 1e999}", 400, "invalid"),
        ("{\"guidance\": -3}", 400, "`guidance`"),
        ("{\"deadline\": 0}", 400, "`deadline`"),
        ("{\"priority\": \"urgent\"}", 400, "urgent"),
        ("{\"model\": \"emoji-33\"}", 404, "expected `emoji-32` or `emoji-text-64`"),
        ("{\"image\": {\"sha256\": \"00\"}}", 400, "no uploaded file"),
        ("{\"strength\": 0.5}", 400, "`strength`"),
    ] {
        let response = served.send("POST", "/v1/jobs", &json_type, body.as_bytes()).is(status);
        let error = response.json()["error"].clone();
        assert!(error["message"].as_str().unwrap().contains(words), "{body}: {error}");
        assert!(error["type"].is_string() && error["code"].is_string(), "{error}");
    }
    served.send("POST", "/v1/jobs", &json_type, &[b'['; 5000]).is(413);
    served.send("POST", "/v1/jobs", &[("Content-Type", "text/plain")], b"{}").is(415);
    served.send("POST", "/v1/jobs", &[("Content-Type", "multipart/form-data")], b"x").is(400);
    served
        .send("POST", "/v1/jobs", &[("Content-Type", "multipart/form-data; boundary=b")], b"--b\r\n")
        .is(400);
    served.send("PUT", "/v1/jobs", &[], b"").is(405);
    served.get("/v1/files/..%2Fjournal.sqlite").is(404);
    served.get("/v1/files/journal.sqlite").is(404);
    served.get("/v1/gallery?limit=0").is(400);
    served.get("/v1/gallery?limit=x").is(400);
    served.get("/nothing").is(404);
    // Pages of other sites are kept out.
    served.send("GET", "/v1/models", &[("Host", "evil.example")], b"").is(403);
    let page = [("Content-Type", "application/json"), ("Origin", "https://evil.example")];
    served.send("POST", "/v1/jobs", &page, b"{}").is(403);
    let document = served.get("/openapi.json").is(200);
    assert!(document.json()["paths"]["/v1/jobs"]["post"].is_object());
    assert!(document.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    served.results(&served.order(&json!({ "steps": 2 })));
}

#[test]
fn it_does_not_start_where_it_should_not() {
    let scratch = Scratch::new();
    scratch.write("bad.toml", "lisen = 'x'\n");
    scratch.write("tokens", "ann short\n");
    for (args, words) in [
        (&["--listen", "0.0.0.0:0"][..], &["0.0.0.0:0", "bearer tokens", "--tokens"][..]),
        (&["--config", "bad.toml"], &["bad.toml", "lisen"]),
        (&["--tokens", "tokens"], &["tokens", "line 1", "at least 16"]),
        (&["--model", "emoji-33"], &["emoji-33", "emoji-32"]),
        (&["--model", "emoji-32", "--model", "emoji-32"], &["two models are called `emoji-32`"]),
    ] {
        scratch.fails(&[&["serve"], args].concat(), words);
    }
    let served = Served::start(&scratch.path(""), &[]);
    let second = scratch.run(&["serve", "--listen", "127.0.0.1:0", "--data-dir", "data"]);
    second.failed(&["journal.sqlite", "another server uses this data folder"]);
    let taken = scratch.run(&["serve", "--listen", &served.address, "--data-dir", "other"]);
    taken.failed(&["cannot listen on", &served.address]);
}
