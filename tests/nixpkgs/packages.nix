# Packages that have nothing but a name. They can be evaluated and not be built, and are where one says: a unit that
# refers to them reads the same on every machine, and its programs can be put there.
{
  lib,
  root,
  build,
}:
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

  # Rust packages are built as nixpkgs does it, step by step, but by this machine's cargo with what it has already fetched
  # and compiled, and without optimizations.
  built =
    { postInstall ? "", ... }@arguments:
    derivation {
      name = "${arguments.pname}-${arguments.version}";
      inherit system postInstall;
      inherit (arguments) src;
      inherit (build) PATH CARGO_HOME CARGO_TARGET_DIR RUSTUP_HOME;
      cargoBuildFlags = arguments.cargoBuildFlags or [ ];
      builder = "/bin/sh";
      args = [
        "-euc"
        ''
          cp -R "$src" source
          chmod -R u+w source
          cd source
          cargo build --offline --locked $cargoBuildFlags
          mkdir -p "$out/bin"
          cp "$CARGO_TARGET_DIR/debug/homelab-deploy" "$out/bin/"
          eval "$postInstall"
        ''
      ];
    };

  packages =
    lib.genAttrs [
      "bash"
      "cargo"
      "clippy"
      "coreutils"
      "deadnix"
      "findutils"
      "git"
      "gitMinimal"
      "gnugrep"
      "gnused"
      "nats-server"
      "natscli"
      "nix"
      "nixfmt"
      "nixfmt-tree"
      "nixos-rebuild"
      "openssh"
      "rust-analyzer"
      "rustc"
      "rustfmt"
      "systemd"
      "util-linux"
    ] package
    // {
      inherit lib;
      stdenv = {
        buildPlatform.canExecute = _: true;
        hostPlatform = {
          inherit system;
          isLinux = lib.hasSuffix "-linux" system;
        };
      };
      rustPlatform.buildRustPackage =
        arguments:
        if build == null then
          made (removeAttrs arguments [ "src" ]) arguments.pname
        else
          built arguments // { inherit (arguments) meta; };
      mkShell = arguments: made arguments "shell";
      runCommand =
        name: arguments: script:
        made { inherit arguments script; } name;
      writeShellScriptBin = name: text: made text name // { inherit text; };
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
