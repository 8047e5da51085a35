//! Which addresses destinations may have.
//!
//! **Owns** the classification of IP addresses. **Invariants**: an address that carries another one (IPv4-mapped,
//! NAT64, 6to4, Teredo) is never an easier way to that other one; what no rule names is allowed only if it is global
//! unicast. **Must not know** how names are resolved: `client` asks here for every address it is about to dial.
//!
//! Sources: the IANA special-purpose address registries for IPv4 and IPv6; for the one address that is special though no
//! registry says so, <https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16>.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an address is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressClass {
    /// Global unicast: anybody's server.
    Public,
    /// This machine or a network behind it: loopback, RFC 1918, carrier-grade NAT, unique local. Allowed where the
    /// operator says so (`[delivery] allow_private_networks`).
    Private,
    /// Nothing a destination can honestly be, in development or not: link-local (cloud metadata lives there),
    /// multicast, unspecified, broadcast, documentation, benchmarking, reserved, Azure's platform endpoint, and transition
    /// prefixes that hide another address.
    Forbidden,
}

/// Whether a destination may be at this address.
pub fn is_allowed(address: IpAddr, allow_private_networks: bool) -> bool {
    match classify(address) {
        AddressClass::Public => true,
        AddressClass::Private => allow_private_networks,
        AddressClass::Forbidden => false,
    }
}

/// What this address is to us.
pub fn classify(address: IpAddr) -> AddressClass {
    match address {
        IpAddr::V4(v4) => classify_v4(v4),
        // `::ffff:a.b.c.d` dials a.b.c.d, so it is what a.b.c.d is.
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or_else(|| classify_v6(v6), classify_v4),
    }
}

fn classify_v4(address: Ipv4Addr) -> AddressClass {
    match address.octets() {
        [10 | 127, ..] | [192, 168, ..] | [172, 16..=31, ..] | [100, 64..=127, ..] => AddressClass::Private,
        // "this network", link-local, multicast and reserved, broadcast included.
        [0 | 224..=255, ..] | [169, 254, ..]
        // Azure's WireServer: ordinary space, but every virtual machine there reaches its host's metadata at it.
        | [168, 63, 129, 16]
        // IETF protocol assignments, documentation, AS112, 6to4 relays, benchmarking.
        | [192, 0, 0 | 2, _] | [192, 31, 196, _] | [192, 52, 193, _] | [192, 88, 99, _] | [192, 175, 48, _]
        | [198, 18..=19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => AddressClass::Forbidden,
        _ => AddressClass::Public,
    }
}

fn classify_v6(address: Ipv6Addr) -> AddressClass {
    if address == Ipv6Addr::LOCALHOST {
        return AddressClass::Private;
    }
    match address.segments() {
        // Unique local, fc00::/7.
        [0xfc00..=0xfdff, ..] => AddressClass::Private,
        // IETF protocol assignments with Teredo (2001::/32), ORCHID and benchmarking (2001:2::/48), 2001::/23;
        // documentation, 2001:db8::/32 and 3fff::/20; 6to4, 2002::/16; AS112, 2620:4f:8000::/48.
        [0x2001, 0x0000..=0x01ff | 0x0db8, ..]
        | [0x3fff, 0x0000..=0x0fff, ..]
        | [0x2002, ..]
        | [0x2620, 0x4f, 0x8000, ..] => AddressClass::Forbidden,
        // Global unicast is 2000::/3. The rest is not: unspecified and IPv4-compatible (::/96), NAT64 (64:ff9b::/96
        // and 64:ff9b:1::/48, which would reach private IPv4 addresses through a gateway), discard (100::/64),
        // segment routing (5f00::/16), link-local, site-local and multicast.
        [0x2000..=0x3fff, ..] => AddressClass::Public,
        _ => AddressClass::Forbidden,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn class(text: &str) -> AddressClass {
        classify(text.parse().expect("an IP address"))
    }

    #[test]
    fn servers_on_the_internet_are_public() {
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "11.0.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "126.255.255.255",
            "128.0.0.1",
            "168.63.129.15",
            "168.63.129.17",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2a00:1450:4001:800::200e",
            "2001:200::1",
            "::ffff:8.8.8.8",
        ] {
            assert_eq!(class(text), AddressClass::Public, "{text}");
        }
    }

    #[test]
    fn loopback_and_private_networks_need_the_operators_word() {
        for text in [
            "127.0.0.1",
            "127.255.255.254",
            "10.0.0.1",
            "10.255.255.255",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "::1",
            "fc00::1",
            "fdff::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:192.168.1.1",
        ] {
            let address = text.parse().expect("an IP address");
            assert_eq!(classify(address), AddressClass::Private, "{text}");
            assert!(!is_allowed(address, false) && is_allowed(address, true), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused_whatever_the_operator_says() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "168.63.129.16",
            "169.254.0.1",
            "169.254.169.254",
            "192.0.0.1",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::127.0.0.1",
            "::8.8.8.8",
            "::ffff:168.63.129.16",
            "::ffff:169.254.169.254",
            "::ffff:0.0.0.0",
            "64:ff9b::7f00:1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:2::1",
            "2001:10::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "3fff::1",
            "5f00::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            let address = text.parse().expect("an IP address");
            assert_eq!(classify(address), AddressClass::Forbidden, "{text}");
            assert!(!is_allowed(address, true), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_mapped_address_is_what_it_maps_to(bits: u32) {
            let v4 = Ipv4Addr::from_bits(bits);
            prop_assert_eq!(classify(IpAddr::V6(v4.to_ipv6_mapped())), classify(IpAddr::V4(v4)));
        }

        #[test]
        fn what_the_standard_library_calls_local_is_never_public(bits: u32) {
            let v4 = Ipv4Addr::from_bits(bits);
            let local = v4.is_loopback() || v4.is_private() || v4.is_link_local() || v4.is_multicast()
                || v4.is_broadcast() || v4.is_documentation() || v4.is_unspecified();
            prop_assert!(!local || classify(IpAddr::V4(v4)) != AddressClass::Public);
        }

        #[test]
        fn no_embedding_of_an_ipv4_address_is_easier_than_the_address(bits: u32) {
            let v4 = Ipv4Addr::from_bits(bits);
            let [high, low] = [(bits >> 16) as u16, (bits & 0xffff) as u16];
            for embedding in [
                Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, !high, !low),
            ] {
                let easier = is_allowed(IpAddr::V6(embedding), false) && !is_allowed(IpAddr::V4(v4), false);
                prop_assert!(!easier, "{embedding}");
            }
        }
    }
}
