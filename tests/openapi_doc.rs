//! `docs/openapi.json` says what the code says, and nothing in it disagrees with the code.

use signalbox::routes::openapi;

/// The document, beside the manifest.
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");

#[test]
fn the_openapi_document_is_up_to_date() {
    let document = std::fs::read_to_string(DOCUMENT).expect("docs/openapi.json is readable");
    assert!(
        document == openapi::document(),
        "docs/openapi.json is out of date: cargo test --test openapi_doc -- --ignored"
    );
}

#[test]
fn routes_signatures_annotations_and_error_codes_agree() {
    let complaints = openapi::complaints();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
#[ignore = "writes docs/openapi.json; run it after changing routes, shapes or error codes"]
fn write_the_openapi_document() {
    std::fs::write(DOCUMENT, openapi::document()).expect("docs/openapi.json is writable");
}
