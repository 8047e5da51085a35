//! `docs/errors.md` says what the table of codes says.

use signalbox::routes::error_codes::errors_page;

/// The page, beside the manifest.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors.md");

#[test]
fn the_page_of_error_codes_is_up_to_date() {
    let page = std::fs::read_to_string(PAGE).expect("docs/errors.md is readable");
    assert!(page == errors_page(), "docs/errors.md is out of date: cargo test --test errors_doc -- --ignored");
}

#[test]
#[ignore = "writes docs/errors.md; run it after changing the table"]
fn write_the_page_of_error_codes() {
    std::fs::write(PAGE, errors_page()).expect("docs/errors.md is writable");
}
