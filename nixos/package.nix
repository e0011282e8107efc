# The program, with completions and manual pages; with `withDemo` also the demo. `purpose` makes a check of it: "tests" also
# runs all tests, and "lint" does nothing but clippy. Hosts build the program alone, which takes long enough.
{
  lib,
  stdenv,
  rustPlatform,
  bash,
  clippy,
  git,
  nats-server,
  util-linux,
  withDemo ? false,
  purpose ? "program",
}:
let
  manifest = (lib.importTOML ../Cargo.toml).package;

  # Nothing else makes anybody build anew: a host is not to compile for an hour because of a word in a README.
  program = [
    ../Cargo.lock
    ../Cargo.toml
    ../benches
    ../plans
    ../scripts/install-extras
    ../src
  ];
  withTests = program ++ [
    ../clippy.toml
    ../docs
    ../examples
    ../nixos
    ../scripts
    ../tests
  ];

  installExtras = lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
    sh scripts/install-extras $out/bin/${manifest.name} $out
  '';
in
rustPlatform.buildRustPackage (
  {
    pname = manifest.name;
    inherit (manifest) version;
    src = lib.fileset.toSource {
      root = ../.;
      fileset = lib.fileset.unions (if purpose == "program" && !withDemo then program else withTests);
    };
    cargoLock.lockFile = ../Cargo.lock;
    strictDeps = true;
    doCheck = purpose == "tests";
    postInstall = installExtras;

    meta = {
      inherit (manifest) description;
      license = lib.licenses.mit;
      mainProgram = manifest.name;
      # The listener is for NixOS. Whoever deploys may sit at a Mac.
      platforms = lib.platforms.linux ++ lib.platforms.darwin;
    };
  }
  // lib.optionalAttrs (purpose == "tests") {
    # The tests start a server, look revisions up in a repository, and call setsid, which a stdenv does not have.
    nativeCheckInputs = [
      git
      nats-server
      util-linux
    ];
  }
  // lib.optionalAttrs (purpose == "lint") {
    pname = "${manifest.name}-clippy";
    nativeBuildInputs = [ clippy ];
    buildPhase = "cargo clippy --all-targets --offline -- -D warnings";
    installPhase = "touch $out";
  }
  // lib.optionalAttrs withDemo {
    cargoBuildFlags = [
      "--bins"
      "--example"
      "demo"
    ];
    # The demo looks for the program beside itself. There is no script in the store that could find it a server.
    postInstall = installExtras + ''
      install -D "$(find target -path '*/release/examples/demo')" $out/libexec/demo
      ln -s $out/bin/homelab-deploy $out/libexec/homelab-deploy
      cat > $out/bin/homelab-deploy-demo <<END
      #!${bash}/bin/bash
      export NATS_SERVER=${nats-server}/bin/nats-server PATH=${git}/bin:\$PATH
      exec $out/libexec/demo "\$@"
      END
      chmod +x $out/bin/homelab-deploy-demo
    '';
  }
)
