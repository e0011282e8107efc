# What the listener takes for some of its flags. It refuses anything else when it starts, and would do so again and again on a
# host that then cannot be deployed any more; so the module says it before. tests/it/module.rs asks both about the same texts.
{ lib }:
let
  matches = pattern: text: builtins.match pattern text != null;

  # A name that subjects use for themselves is none.
  reserved = [
    "all"
    "role"
    "responses"
    "discover"
    "operators"
  ];

  repositories = [
    "git"
    "git+https"
    "git+http"
    "git+ssh"
    "git+file"
    "git+git"
    "hg+https"
    "hg+http"
    "hg+ssh"
  ];
  forges = [
    "github"
    "gitlab"
    "sourcehut"
  ];

  # The flags by which nixos-rebuild deploys something else than what was asked for, or somewhere else.
  choosing = [
    "--flake"
    "--no-flake"
    "--file"
    "-f"
    "--attr"
    "-A"
    "--store-path"
    "--target-host"
    "--profile-name"
    "-p"
    "--specialisation"
    "-c"
    "--rollback"
    "--upgrade"
    "--upgrade-all"
  ];

  placeholders = [
    "<hostname>"
    "<tier>"
    "<role>"
  ];
in
{
  inherit reserved placeholders;

  isToken = name: matches "[^.*>[:space:][:cntrl:]]+" name && !(lib.elem name reserved);

  # A flake of a kind that has revisions, without one of its own.
  isFlakeUrl =
    url:
    let
      parts = builtins.match "([^:?#]+):([^?#]*)([?]([^#]*))?" url;
      scheme = builtins.elemAt parts 0;
      path = builtins.elemAt parts 1;
      query = toString (builtins.elemAt parts 3);
      segments = lib.filter (segment: segment != "") (lib.splitString "/" path);
    in
    matches "[[:graph:]]+" url
    && parts != null
    && !(matches "(.*&)?(ref|rev)([=&].*)?" query)
    && (
      lib.elem scheme repositories && matches "//.+" path
      || lib.elem scheme forges && builtins.length segments == 2
    );

  isFlakeAttr = matches "[[:alnum:]_][[:alnum:]_.+-]*";

  isRebuildFlag = word: !(lib.elem (lib.head (lib.splitString "=" word)) choosing);

  isSocketAddress = matches "(([0-9]{1,3}[.]){3}[0-9]{1,3}|\\[[0-9a-fA-F:.]+]):[0-9]{1,5}";

  # A subject without wildcards, whose placeholders are known.
  isSubjectTemplate =
    text:
    matches "[^.*<>[:space:][:cntrl:]]+([.][^.*<>[:space:][:cntrl:]]+)*" (
      lib.replaceStrings placeholders (map (_: "x") placeholders) text
    );
}
