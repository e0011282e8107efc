# The program; with `withDemo` the demo beside it, with `lintOnly` nothing but what clippy says.
{
  lib,
  rustPlatform,
  bash,
  clippy,
  git,
  nats-server,
  withDemo ? false,
  lintOnly ? false,
}:
let
  manifest = (lib.importTOML ../Cargo.toml).package;
in
rustPlatform.buildRustPackage (
  {
    pname = manifest.name;
    inherit (manifest) version;
    src = lib.cleanSource ../.;
    cargoLock.lockFile = ../Cargo.lock;

    # The integration tests start a server and look revisions up in a repository.
    nativeCheckInputs = [
      git
      nats-server
    ];

    meta = {
      inherit (manifest) description;
      license = lib.licenses.mit;
      mainProgram = manifest.name;
      platforms = lib.platforms.linux;
    };
  }
  // lib.optionalAttrs lintOnly {
    pname = "${manifest.name}-clippy";
    nativeBuildInputs = [ clippy ];
    buildPhase = "cargo clippy --all-targets --offline -- -D warnings";
    installPhase = "touch $out";
    doCheck = false;
  }
  // lib.optionalAttrs withDemo {
    cargoBuildFlags = [
      "--bins"
      "--example"
      "demo"
    ];
    doCheck = false;
    # The demo looks for the program beside itself. There is no script in the store that could find it a server.
    postInstall = ''
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
