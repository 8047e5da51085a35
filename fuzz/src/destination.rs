//! Destinations: an accepted URL is one that may be dialled, and no spelling of an address is an easier way to it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use signalbox::delivery::{
    address::{AddressClass, classify, is_allowed},
    destination::{literal_address, validate_url},
};
use url::Url;

/// Sixteen bytes are an address, whatever is longer or shorter a URL.
pub fn run(data: &[u8]) {
    if let Ok(octets) = <[u8; 16]>::try_from(data) {
        address(octets);
    }
    let text = String::from_utf8_lossy(data);
    let strict = validate_url(&text, false);
    match validate_url(&text, true) {
        Ok(url) => expect_plain(&url, true),
        Err(_) => assert!(strict.is_err(), "refused where more is allowed"),
    }
    let Ok(url) = strict else { return };
    expect_plain(&url, false);
    // What is stored is the text the parser wrote: reading it again changes nothing.
    let again = validate_url(url.as_str(), false).expect("accepted, and refused when read again");
    assert_eq!(again, url);
    if let Some(address) = literal_address(&url) {
        assert!(is_allowed(address, false));
        expect_global(address);
    }
}

fn expect_plain(url: &Url, private: bool) {
    assert!(matches!(url.scheme(), "http" | "https") && url.has_host());
    assert!(url.username().is_empty() && url.password().is_none() && url.fragment().is_none());
    assert!(literal_address(url).is_none_or(|address| is_allowed(address, private)));
}

fn address(octets: [u8; 16]) {
    let v6 = Ipv6Addr::from(octets);
    let v4 = Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]);
    if classify(v6.into()) == AddressClass::Public {
        expect_global(v6.into());
    }
    if classify(v4.into()) == AddressClass::Public {
        expect_global(v4.into());
    }
    let [a, b, c, d] = v4.octets();
    let low = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
    // Every way of carrying an IPv4 address in an IPv6 one.
    let carriers = [
        v4.to_ipv6_mapped(),
        v4.to_ipv6_compatible(),
        Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, low[0], low[1]),
        Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, low[0], low[1]),
        Ipv6Addr::new(0x2002, low[0], low[1], 0, 0, 0, 0, 1),
        Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, !low[0], !low[1]),
    ];
    // Two of them are addresses of their own: `::` and `::1`.
    for carrier in carriers.into_iter().filter(|carrier| !carrier.is_loopback() && !carrier.is_unspecified()) {
        for private in [false, true] {
            assert!(!is_allowed(carrier.into(), private) || is_allowed(v4.into(), private), "{carrier} leads to {v4}");
        }
    }
}

/// The standard library's own opinions.
fn expect_global(address: IpAddr) {
    // `::ffff:a.b.c.d` dials a.b.c.d.
    let address = address.to_canonical();
    let is_special = match address {
        IpAddr::V4(v4) => {
            v4.is_private() || v4.is_link_local() || v4.is_broadcast() || v4.is_documentation() || v4.octets()[0] >= 240
        }
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
    };
    assert!(!is_special && !address.is_loopback() && !address.is_multicast() && !address.is_unspecified(), "{address}");
}
