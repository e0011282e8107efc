//! Texts for the end of each command's help: examples and exit codes.

/// Formats the end of a help: examples, then exit codes, including those that all commands share.
macro_rules! help {
    ($examples:literal, $($code:literal),*) => {
        concat!(
            "Examples:\n", $examples, "\n\nExit codes:\n  0    Done\n", $("  ", $code, "\n",)*
            "  2    The command line, a setting or a plan is wrong; nothing was done\n",
            "  3    Something that is needed is not there: NATS, a permission, a file"
        )
    };
}

/// Like `help!`, for commands that deploy.
macro_rules! help_of_rollout {
    ($examples:literal) => {
        help!(
            $examples,
            "1    A host or a wave failed",
            "4    The question was answered with no, or nobody could answer it",
            "130  It was interrupted"
        )
    };
}

pub(super) const INIT: &str = help!(
    "  homelab-deploy init fleet
  homelab-deploy init fleet --yes --host test.test1 --host prod.ns1.dns",
);
pub(super) const DOCTOR: &str = help!(
    "  homelab-deploy doctor
  homelab-deploy doctor --listener
  homelab-deploy doctor nats.conf",
    "1    Something is wrong"
);
pub(super) const BUILD: &str = help!(
    "  homelab-deploy build sunday --out systems.json
  homelab-deploy build ns1 ns2 --revision main --flake github:me/fleet \\
    --sign-key fleet.secret --copy-to file:///srv/cache --out systems.json",
);
pub(super) const APPLY: &str = help_of_rollout!(
    "  homelab-deploy apply sunday
  homelab-deploy apply ./rollout.toml --yes --json
  homelab-deploy apply sunday --systems systems.json
  homelab-deploy apply sunday --detach
  homelab-deploy apply sunday --verbose
  homelab-deploy apply --resume"
);
pub(super) const PLAN: &str = help!(
    "  homelab-deploy plan sunday
  homelab-deploy plan ./rollout.toml --systems systems.json --out planned.json",
);
pub(super) const DEPLOY: &str = help_of_rollout!(
    "  homelab-deploy deploy deploy.test.test1
  homelab-deploy deploy deploy.prod.role.dns --branch main
  homelab-deploy deploy deploy.prod.all --action dry-activate
  homelab-deploy deploy prod.ns1 --to previous"
);
pub(super) const ROLLBACK: &str = help_of_rollout!(
    "  homelab-deploy rollback ns1
  homelab-deploy rollback prod.ns1 prod.ns2 --yes
  homelab-deploy rollback 01J9ZK3V"
);
pub(super) const HOSTS: &str = help!(
    "  homelab-deploy hosts
  homelab-deploy hosts --tier prod --watch
  homelab-deploy hosts --json | jq -r '.[].hostname'",
);
pub(super) const LOGS: &str = help!(
    "  homelab-deploy logs ns1 --follow
  homelab-deploy logs prod.ns1 --id 6f1c2a8e-8e0f-4a43-9a39-2f1f3c1d2b11",
);
pub(super) const ROLLOUTS: &str = help!(
    "  homelab-deploy rollouts
  homelab-deploy rollouts --json | jq '.[-1].outcome'",
);
pub(super) const STATUS: &str = help_of_rollout!(
    "  homelab-deploy status
  homelab-deploy status 01J9ZK3V --json"
);
pub(super) const REPORT: &str = help!(
    "  homelab-deploy report > rollout.html
  homelab-deploy report 01J9ZK3V --format markdown
  homelab-deploy report --format junit --out results.xml",
);
pub(super) const ABORT: &str = help!(
    "  homelab-deploy abort
  homelab-deploy abort 01J9ZK3V",
);
pub(super) const KEYGEN: &str = help!(
    "  homelab-deploy keygen operator.seed
  homelab-deploy keygen --public operator.seed",
);
pub(super) const NATS_CONFIG: &str = help!("  homelab-deploy nats-config fleet.toml > authorization.conf",);
pub(super) const LISTENER: &str = help!(
    "  homelab-deploy listener --hostname ns1 --tier prod --role dns \\
    --flake-url git+https://git.example.net/fleet --nkey-file /run/keys/ns1.seed",
);
pub(super) const MCP: &str = help!("  homelab-deploy mcp --context home",);
pub(super) const MAN: &str = help!(
    "  homelab-deploy man | man -l -
  homelab-deploy man --out share/man/man1",
);
pub(super) const COMPLETIONS: &str = help!(
    "  In ~/.bashrc:
    eval \"$(homelab-deploy completions bash)\"
  In ~/.zshrc, below compinit:
    eval \"$(homelab-deploy completions zsh)\"
  In ~/.config/fish/config.fish:
    homelab-deploy completions fish | source",
);
