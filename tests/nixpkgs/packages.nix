# Packages that have nothing but a name. They can be evaluated and not be built, and are where one says: a unit that
# refers to them reads the same on every machine, and its programs can be put there.
{ lib, root }:
system:
let
  package =
    name:
    derivation {
      inherit name system;
      builder = "/bin/sh";
    }
    // {
      outPath = "${root}/${name}";
    };

  # A package that can only be built where all of this evaluates.
  made = parts: name: package name // { drvPath = builtins.deepSeq parts (package name).drvPath; };

  packages =
    lib.genAttrs [
      "bash"
      "cargo"
      "clippy"
      "coreutils"
      "deadnix"
      "findutils"
      "git"
      "gnugrep"
      "gnused"
      "nats-server"
      "natscli"
      "nix"
      "nixfmt-rfc-style"
      "nixos-rebuild"
      "openssh"
      "rust-analyzer"
      "rustc"
      "rustfmt"
      "systemd"
    ] package
    // {
      inherit lib;
      stdenv.hostPlatform.system = system;
      rustPlatform.buildRustPackage = arguments: made arguments arguments.pname;
      mkShell = arguments: made arguments "shell";
      runCommand =
        name: arguments: script:
        made { inherit arguments script; } name;
      writeShellScriptBin = name: script: made script name;
      # Every machine of the test is evaluated; nothing runs.
      testers.runNixOSTest =
        test:
        let
          machine =
            module:
            (lib.nixosSystem {
              inherit system;
              modules = [ module ];
            }).config.system.build.toplevel;
        in
        made {
          inherit (test) testScript;
          nodes = lib.mapAttrs (_: machine) test.nodes;
        } test.name;
      callPackage =
        file: arguments:
        let
          function = import file;
          wanted = builtins.functionArgs function;
        in
        function (builtins.intersectAttrs wanted packages // arguments);
    };
in
packages
