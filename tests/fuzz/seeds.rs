//! What mutation starts from: the fixtures, what the simulated providers send, and some inputs by hand.

use std::{fmt::Write as _, fs, path::Path};

use serde_json::Value;
use signalbox::{
    model::clock::EpochMs,
    sim::{self, Encoding, SignedRequest},
};

/// When the fixtures arrive, which is when the target `verify` lives.
const NOW: EpochMs = EpochMs(1_786_701_234_567);
/// The first secret of the target `verify`.
const SECRET: &[u8] = b"a secret of the tests";

/// The seeds of a target.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "verify" => verify(),
        "form" => forms(),
        "envelope" => envelopes(),
        "headers" => headers(),
        "config" => configs(),
        "destination" => destinations(),
        "plan" => {
            (0..64_u8).map(|seed| (0..96_u8).map(|at| at.wrapping_mul(seed.wrapping_mul(37) | 1)).collect()).collect()
        }
        "secrets" => secrets(),
        "times" => times(),
        "yaml" => yaml(),
        "requests" => requests(),
        webhooks => extract(webhooks.strip_prefix("extract_").expect("a target")),
    }
}

/// Inputs that once broke a promise.
pub fn regressions(target: &str) -> Vec<Vec<u8>> {
    read_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions").join(target))
}

fn read_folder(folder: &Path) -> Vec<Vec<u8>> {
    let Ok(files) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).expect("readable")).collect()
}

/// The fixtures of a provider as text files: header lines, an empty line, the body.
fn fixtures(slug: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(slug);
    let mut cases: Vec<_> = fs::read_dir(folder).expect("fixtures").map(|case| case.expect("a case").path()).collect();
    cases.sort();
    let read = |case: &Path| {
        let headers: Value =
            serde_json::from_slice(&fs::read(case.join("headers.json")).expect("headers")).expect("JSON");
        let mut lines = String::new();
        for (name, value) in headers.as_object().expect("an object") {
            writeln!(lines, "{name}: {}", value.as_str().expect("text")).expect("writes");
        }
        let body = fs::read(case.join("body.json")).or_else(|_| fs::read(case.join("body.form")));
        (lines, body.expect("a body"))
    };
    cases.iter().map(|case| read(case)).collect()
}

/// One of everything that a simulated provider sends.
fn simulated(slug: &str, encoding: Encoding) -> Vec<SignedRequest> {
    let provider = sim::find(slug).expect("simulated");
    let facts = provider.facts(1, 7, NOW);
    let kinds = provider.keys.iter().chain(provider.control);
    kinds.filter_map(|kind| provider.event_encoded(kind, &facts, SECRET, encoding)).collect()
}

fn text_of(request: &SignedRequest) -> Vec<u8> {
    let lines: String =
        request.headers.iter().fold(String::new(), |text, (name, value)| text + name + ": " + value + "\n");
    [lines.as_bytes(), b"\n", &request.body].concat()
}

fn extract(slug: &str) -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> =
        fixtures(slug).into_iter().map(|(lines, body)| [lines.as_bytes(), b"\n", &body].concat()).collect();
    seeds.extend(simulated(slug, Encoding::Json).iter().map(text_of));
    let (lines, _) = fixtures(slug).into_iter().find(|(lines, _)| lines.lines().count() > 2).expect("with headers");
    let deep =
        |open: &str, close: &str| format!("{{\"installation\":{}{}}}", open.repeat(100_000), close.repeat(100_000));
    let many = format!("{{\"repositories\":[{}1]}}", "{\"id\":1},".repeat(20_000));
    for body in [
        deep("[", "]"),
        deep("{\"id\":", "}"),
        many,
        "{".repeat(100_000),
        format!("{{\"id\":{}}}", "9".repeat(100_000)),
    ] {
        seeds.push([lines.as_bytes(), b"\n", body.as_bytes()].concat());
    }
    seeds
}

fn verify() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![], vec![0], b"\x04x-hub-signature-256: sha256=\n\n".to_vec()];
    for (number, slug) in ["github", "vercel", "linear", "sentry"].into_iter().enumerate() {
        let number = u8::try_from(number).expect("four");
        for (at, request) in simulated(slug, Encoding::Json).iter().take(12).enumerate() {
            let secrets = u8::try_from(at % 4).expect("four") << 2;
            seeds.push([&[number | secrets | 0x10][..], &text_of(request)].concat());
        }
    }
    seeds
}

fn forms() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> =
        fixtures("github").into_iter().map(|(_, body)| body).filter(|body| body.starts_with(b"payload=")).collect();
    seeds.extend(simulated("github", Encoding::Form).into_iter().map(|request| request.body.to_vec()));
    let by_hand = [
        "",
        "payload",
        "payload=",
        "payload={}",
        "x=1&pay%6Coad=%7B%22a%22%3A+1%7D&payload={}",
        "a&&=&payload=%FF%zz%4",
        "=&%",
    ];
    seeds.extend(by_hand.map(|text| text.as_bytes().to_vec()));
    seeds
}

fn envelopes() -> Vec<Vec<u8>> {
    let names =
        "evt_1\n5f2c\nin_1\norg_1\ngithub\npull_request\ngithub:pull-request.opened\nws_1\nint_1\n1786701234567\n";
    let odd = "evt\"\\\n\u{1}\n\n\u{2028}\né\n\0\n\nx\ny\n-1\n";
    let payloads = ["{}", "{ \"n\" : 1e400, \"s\":\"\\ud800\" }", "", "null", "{\"a\":[1,{\"b\":2}]} ", "}"];
    let mut seeds: Vec<Vec<u8>> = payloads
        .iter()
        .flat_map(|payload| [names, odd].map(|names| format!("{names}{payload}").into_bytes()))
        .collect();
    let sent = simulated("linear", Encoding::Json);
    seeds.extend(sent.iter().map(|request| [names.as_bytes(), &request.body].concat()));
    seeds
}

fn headers() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = ["github", "vercel", "linear", "sentry"]
        .iter()
        .flat_map(|slug| fixtures(slug))
        .map(|(lines, _)| [lines.as_bytes(), b"\n{}"].concat())
        .collect();
    seeds.sort();
    seeds.dedup();
    let by_hand = [
        "X-A: 1\nx-a: 2\nX-A: 3\n\n",
        "authorization: Bearer abc\nx-team: b\n\n",
        "Host: a\n\n",
        "webhook-id: a\n\n",
        "secret: whsec_c2lnbmFsYm94IGZ1enogdGFyZ2V0IHNlY3JldCE=\n\n",
        "secret: whsec_c2lnbmFsYm94IGZ1enogdGFyZ2V0IHNlY3JldCE\n\n",
        "a\r: \u{e9}\nproxy-x: y\n:\n\n\n",
    ];
    seeds.extend(by_hand.map(|text| text.as_bytes().to_vec()));
    seeds
}

fn configs() -> Vec<Vec<u8>> {
    let example = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("signalbox.example.toml")).expect("the example");
    let uncommented: String = String::from_utf8_lossy(&example)
        .lines()
        .map(|line| line.strip_prefix("# ").or_else(|| line.strip_prefix('#')).unwrap_or(line))
        .filter(|line| line.starts_with('[') || line.contains(" = "))
        .filter(|line| !line.replace("config_files", "").contains("_file"))
        .fold(String::new(), |text, line| text + line + "\n");
    let variables: String =
        sim::gateway_settings().fold(String::new(), |text, (name, value)| text + &name + "=" + &value + "\n");
    let by_hand = [
        "",
        "[server]\nlisten = \"127.0.0.1:0\"\nworkers = 2\npublic_url = \"https://a.example/b/\"\n",
        "[delivery]\nretry_schedule_s = [1, 0.5, 1e9]\nurl = \"https://a.example\"\nsecret = \"whsec_c2lnbmFsYm94IGZ1enogdGFyZ2V0IHNlY3JldCE=\"\n",
        "[vault]\nkeys = [{id = \"k1\", key = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"}]\n",
        "[providers.github]\nwebhook_secrets = [\"a\", \"b\"]\nprivate_key = \"-----BEGIN\"\n[providers.acme]\nx = 1\n",
        "server = 1\n[server\n",
        "\n%%\nSIGNALBOX_AUTH__SERVICE_KEY=c4n4ry\nSIGNALBOX_SERVER__LISTEN=nowhere\nSIGNALBOX_X=1\nSIGNALBOX_A__B__C__D=\n",
        "\n%%\nSIGNALBOX_DELIVERY__RETRY_SCHEDULE_S=[1, c4n4ry]\n",
        "\n%%\nSIGNALBOX_DELIVERY__RETRY_SCHEDULE_S=5,30\nSIGNALBOX_DATABASE__URL=postgres://a:c4n4ry@h/d\n",
    ];
    let mut seeds: Vec<Vec<u8>> = by_hand.map(|text| text.as_bytes().to_vec()).into();
    seeds.push(uncommented.into_bytes());
    seeds.push(format!("\n%%\n{variables}").into_bytes());
    seeds.push(example);
    seeds
}

fn destinations() -> Vec<Vec<u8>> {
    let texts = [
        "https://example.com/hook?a=b",
        "http://127.0.0.1:8080/",
        "http://0x7f.1/",
        "http://2130706433/",
        "http://0177.0.0.1./",
        "http://[::ffff:10.0.0.1]/",
        "http://[64:ff9b::7f00:1]:1/x",
        "http://169.254.169.254/latest/meta-data",
        "https://user:pw@example.com/#top",
        "http://ex\u{e4}mple.\u{3002}com/\u{200d}",
        "HTTP:\\\\example.com\\a\\..\\b",
        "http://%31%32%37.0.0.1/",
        "http://\u{ff11}27.0.0.1/",
        "ftp://example.com",
        "",
    ];
    let mut seeds: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    let addresses =
        ["::1", "::ffff:127.0.0.1", "fe80::1", "fd00::1", "2001:db8::1", "2002:7f00:1::", "2606:4700::1111", "ff02::1"];
    seeds.extend(addresses.map(|text| text.parse::<std::net::Ipv6Addr>().expect("an address").octets().to_vec()));
    seeds
}

fn secrets() -> Vec<Vec<u8>> {
    let key = signalbox::crypto::seal::SealingKey::new("k1", &[7; 32]).expect("32 bytes");
    let record = key.seal(&["gw_tokens", "in_1", "access_token"], b"gho_secret").expect("seals");
    let texts = [
        record.as_str(),
        "v1.k1.AAAA",
        "-----BEGIN RSA PRIVATE KEY-----\nMAMCAQA=\n-----END RSA PRIVATE KEY-----\n",
        "-----BEGIN PRIVATE KEY-----\\nMIIBAAAA\\n-----END PRIVATE KEY-----",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\n-----END ENCRYPTED PRIVATE KEY-----",
        "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0tCk1BTUNBUUE9Ci0tLS0tRU5EIFBSSVZBVEUgS0VZLS0tLS0K",
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4v",
        "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        "sbx_0123456789",
        "",
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}

fn times() -> Vec<Vec<u8>> {
    let lines = [
        "2026-02-25T01:40:00Z",
        "2026-02-25T01:40:00.123456789+01:00",
        "9999-12-31T23:59:59.999Z",
        "-009999-01-01T00:00:00Z",
        "120",
        "18446744073709551615",
        "-9223372036854775808",
        "1786701234",
        "github:push",
        "push",
        "",
    ];
    let rests = [
        "",
        "\n{\"sync\":{\"events\":[\"github:push\",\"push\"],\"autoSync\":false}}",
        "\n{\"sync\":{\"events\":\"x\"},\"raw\":{\"installationId\":7},\"installations\":[{\"accountLogin\":\"a\"}]}",
        "\n{\"name\":\"a/b\",\"isPrivate\":null,\"teamId\":\"team_1\",\"organization\":{\"id\":\"x\",\"urlKey\":\"y\"}}",
    ];
    lines.iter().flat_map(|line| rests.map(|rest| format!("{line}{rest}").into_bytes())).collect()
}

fn yaml() -> Vec<Vec<u8>> {
    let mut laughs = String::from("a0: &a0 [x, x]\n");
    for level in 1..100 {
        let before = level - 1;
        writeln!(laughs, "a{level}: &a{level} [*a{before}, *a{before}]").expect("writes");
    }
    let texts = [
        "include:\n  - src/**\nexclude: [\"*.md\", '*.lock']\n",
        "a: |\n  text\n  more\nb: >-\n  folded\n",
        "%YAML 1.2\n---\n!!map {? a : b, c: !<tag:x> d}\n...\n--- # again\n- - - x\n",
        "a: &x {b: *x}\n? [complex, key]\n: \"\\u00e9\\x41\"\n",
        "a: b: c: d\n- x",
        "\t\u{feff}\u{85}- \u{2028}",
        &"[".repeat(5000),
        &"- ".repeat(3000),
        &"? ".repeat(3000),
        &laughs,
        "",
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}

/// Every route of the OpenAPI document with ids that are not there, and what browsers and providers send.
fn requests() -> Vec<Vec<u8>> {
    let document = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json")).expect("the document");
    let document: Value = serde_json::from_slice(&document).expect("JSON");
    let mut seeds = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        let path = path.replace("{provider}", "github").replace("{id}", "in_01").replace("{resource}", "res_01");
        let path = path.replace("{state}", "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
        for method in methods.as_object().expect("methods").keys().filter(|method| !method.starts_with('x')) {
            let method = method.to_uppercase();
            if !["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"].contains(&method.as_str()) {
                continue;
            }
            let query = if method == "GET" { "?limit=2&cursor=evt_01&since=2026-02-25T01:40:00Z" } else { "" };
            let body = if method == "GET" {
                ""
            } else {
                "{\"connectionId\":\"in_1\",\"url\":\"https://a.example\",\"events\":[\"push\"],\"name\":\"x\"}"
            };
            seeds.push(
                format!("{method} {path}{query}\nx-org-id: org_1\ncontent-type: application/json\n\n{body}")
                    .into_bytes(),
            );
        }
    }
    for slug in ["github", "vercel", "linear", "sentry"] {
        let provider = sim::find(slug).expect("simulated");
        let facts = provider.facts(1, 7, NOW);
        let request = provider.event(provider.keys[0], &facts, provider.secret.as_bytes()).expect("known");
        let line = format!("POST /webhooks/{slug}\nx-anonymous: 1\n");
        seeds.push([line.as_bytes(), &text_of(&request)].concat());
        let state = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        seeds.push(format!("GET /connections/{slug}/callback?state={state}&code=x&setup_action=install&installation_id=1\nx-anonymous: 1\ncookie: __Host-signalbox_flow={state}; a=b\naccept: text/html\n\n").into_bytes());
    }
    let trusted = "{\"connectionId\":\"in_1\",\"orgId\":\"org_1\",\"deliveryId\":\"d-1\",\"eventType\":\"push\",\"payload\":{},\"receivedAt\":1771980000}";
    seeds.push(
        format!("POST /webhooks/github\nx-org-id: org_1\ncontent-type: application/json\n\n{trusted}").into_bytes(),
    );
    let by_hand = [
        "GET /events/stream?after=evt_01\nx-org-id: org_1\nlast-event-id: evt_01a2\n\n",
        "GET /events?provider=github&outcome=routed&held=true&key=%25_&until=9999-12-31T23:59:59Z\n\n",
        "POST /connections/in_1/proxy/execute\nx-org-id: org_1\n\n{\"endpointId\":\"repos.contents\",\"pathParams\":{\"owner\":\"..\"},\"queryParams\":{\"a\":[1,true]}}",
        "GET /connections/%00/%2e%2e?%FF=%FF&cursor=in_%C3%A9\nx-org-id: org%00\n\n",
        "PATCH /integrations/int_1\nx-org-id: org_1\n\n{\"sync\":{\"events\":[]},\"status\":\"paused\"}",
        "OPTIONS /nothing\nx-anonymous: 1\nauthorization: Bearer sbx_x\n\n",
    ];
    seeds.extend(by_hand.map(|text| text.as_bytes().to_vec()));
    seeds
}
