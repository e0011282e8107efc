//! Tests the changes between closures, and their sum over a fleet.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::super::{Changes, Closures, StorePath};
use crate::protocol::HostName;

/// Parses store paths, one a line: `<hash>-<name>`, the size and the references.
fn closures(text: &str) -> Closures {
    let path = |line: &str| {
        let mut words = line.split_whitespace();
        let (name, size) = (words.next()?, words.next()?);
        Some((
            name.to_owned(),
            StorePath { references: words.map(str::to_owned).collect(), size: size.parse().unwrap() },
        ))
    };
    text.lines().filter_map(path).collect()
}

fn changes(closures: &Closures, hosts: &[(&str, Option<&str>, &str)]) -> Changes {
    let hosts: Vec<(HostName, Option<&str>, &str)> =
        hosts.iter().map(|(host, runs, shall)| (host.parse().unwrap(), *runs, *shall)).collect();
    closures.changes(hosts.iter().map(|(host, runs, shall)| (host, *runs, *shall)))
}

/// Formats the changed packages, one a line.
fn packages(changes: &Changes) -> String {
    let versions =
        |versions: &std::collections::BTreeSet<String>| versions.iter().cloned().collect::<Vec<_>>().join(",");
    let lines = changes.packages.iter().map(|package| {
        let hosts: Vec<&str> = package.hosts.iter().map(HostName::as_str).collect();
        format!(
            "{}: {} -> {} on {}",
            package.name,
            versions(&package.before),
            versions(&package.after),
            hosts.join(" ")
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

const FLEET: &str = "
    s1-nixos-system-ns1-25.11   1  k1-linux-6.12.60 i1-initrd-linux-6.12.60 p1-openssh-10.0p2 e1-etc u1-unit-a.service
    s2-nixos-system-ns1-25.11   1  k2-linux-6.12.63 i2-initrd-linux-6.12.63 p2-openssh-10.2p1 e2-etc j-jellyfin-10.11.3
    t1-nixos-system-ns2-25.11   1  k1-linux-6.12.60 i1-initrd-linux-6.12.60 p1-openssh-10.0p2 e1-etc
    t2-nixos-system-ns2-25.11   1  k1-linux-6.12.60 i1-initrd-linux-6.12.60 p2-openssh-10.2p1 e1-etc
    k1-linux-6.12.60          100
    k2-linux-6.12.63          200
    i1-initrd-linux-6.12.60    10  b1-busybox-1.36
    i2-initrd-linux-6.12.63    20  b1-busybox-1.36
    b1-busybox-1.36             3
    p1-openssh-10.0p2           5  l1-openssl-3.0-bin
    p2-openssh-10.2p1           7  l2-openssl-3.0-bin l1-openssl-3.0-bin p2-openssh-10.2p1
    l1-openssl-3.0-bin          1
    l2-openssl-3.0-bin          1
    e1-etc                      1
    e2-etc                      1
    u1-unit-a.service           1
    j-jellyfin-10.11.3         40";

#[test]
fn packages_that_change_are_folded_over_the_hosts() {
    let closures = closures(FLEET);
    let changes = changes(
        &closures,
        &[
            ("ns1", Some("s1-nixos-system-ns1-25.11"), "s2-nixos-system-ns1-25.11"),
            ("ns2", Some("t1-nixos-system-ns2-25.11"), "t2-nixos-system-ns2-25.11"),
            ("same", Some("somewhere-else"), "somewhere-else"),
            ("silent", None, "s2-nixos-system-ns1-25.11"),
            ("old", Some("no-cache-knows-it"), "s2-nixos-system-ns1-25.11"),
            ("gone", Some("s1-nixos-system-ns1-25.11"), "no-cache-has-it"),
        ],
    );
    // A rebuilt path with the same version is no change, nor is the loss of one of several such paths.
    insta::assert_snapshot!(packages(&changes), @r"
    initrd-linux: 6.12.60 -> 6.12.63 on ns1
    jellyfin:  -> 10.11.3 on ns1
    linux: 6.12.60 -> 6.12.63 on ns1
    openssh: 10.0p2 -> 10.2p1 on ns1 ns2
    unit-a.service:  ->  on ns1
    ");
    let names = |hosts: &std::collections::BTreeSet<HostName>| hosts.iter().cloned().collect::<Vec<_>>();
    assert_eq!(names(&changes.reboots), ["ns1".parse().unwrap()]);
    assert_eq!(names(&changes.unchanged), ["same".parse().unwrap()]);
    assert_eq!(names(&changes.unknown), ["old".parse().unwrap(), "silent".parse().unwrap()]);
    assert_eq!(names(&changes.missing), ["gone".parse().unwrap()]);
    // System, kernel, initrd, openssh, its library, etc and jellyfin; on the second host system, openssh, library.
    assert_eq!((changes.to_fetch_most, changes.to_fetch), (1 + 200 + 20 + 7 + 1 + 1 + 40, 270 + 1 + 7 + 1));
}

#[test]
fn names_and_versions_are_told_apart_as_nix_does() {
    let name = |name: &str| {
        let closures = closures(&format!("s1-x 0\ns2-y 0 h-{name}\nh-{name} 0"));
        let changes = changes(&closures, &[("a", Some("s1-x"), "s2-y")]);
        let package = changes.packages.iter().find(|package| !["x", "y"].contains(&package.name.as_str())).unwrap();
        format!("{} {}", package.name, package.after.first().unwrap())
    };
    let names = [
        "openssl-3.0.13-bin",
        "linux-6.12.60-modules",
        "gcc-13.2.0-lib",
        "glibc-2.40-66",
        "a52dec-0.8.0",
        "nixos-option",
    ];
    insta::assert_snapshot!(names.map(name).join("\n"), @r"
    openssl 3.0.13
    linux 6.12.60
    gcc 13.2.0
    glibc 2.40-66
    a52dec 0.8.0
    nixos 
    ");
    insta::assert_snapshot!(["unit-a.service", "perl5.40.0-X-1.2", "foo--1", "x-y_z-3-man", "etc-hosts"].map(name).join("\n"), @r"
    unit-a.service 
    perl5.40.0-X 1.2
    foo -1
    x-y_z 3
    etc 
    ");
}

/// 1,000 hosts of 1,500 paths each, a usual number for NixOS.
#[test]
fn a_large_fleet_is_folded_in_a_moment() {
    const SHARED: usize = 1_400;
    let path =
        |kind: &str, number: usize, version: usize| format!("{kind}{number}v{version}-package{number}-{version}");
    let mut paths = Vec::new();
    for version in [1, 2] {
        for number in 0..SHARED {
            let references = (1..=8).map(|step| number + step * step).filter(|number| *number < SHARED);
            let references = references.map(|number| path("p", number, version)).collect();
            paths.push((path("p", number, version), StorePath { references, size: 1 }));
        }
    }
    for host in 0..1_000 {
        for version in [1, 2] {
            let own: Vec<String> =
                (0..100).map(|unit| format!("h{host}v{version}u{unit}-unit-{unit}.service")).collect();
            paths.extend(own.iter().map(|own| (own.clone(), StorePath { references: Vec::new(), size: 1 })));
            let references = own.into_iter().chain((0..10).map(|number| path("p", number, version))).collect();
            paths.push((path("h", host, version), StorePath { references, size: 1 }));
        }
    }
    let closures: Closures = paths.into_iter().collect();
    let hosts: Vec<(HostName, String, String)> =
        (0..1_000).map(|host| (format!("h{host}").parse().unwrap(), path("h", host, 1), path("h", host, 2))).collect();

    // Counts the time of this thread only, not that of other processes.
    let spent = || getrusage(UsageWho::RUSAGE_THREAD).unwrap().user_time().num_microseconds();
    let before = spent();
    let changes = closures.changes(hosts.iter().map(|(host, runs, shall)| (host, Some(runs.as_str()), shall.as_str())));
    let took = spent() - before;
    assert_eq!(changes.packages.len(), SHARED);
    assert_eq!(changes.to_fetch, 1_000 * (1 + 100 + SHARED as u64));
    // A build without optimization is about twenty times slower.
    let most = if cfg!(debug_assertions) { 20_000_000 } else { 1_000_000 };
    assert!(took < most, "it took {took} us");
}
