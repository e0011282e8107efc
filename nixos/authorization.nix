# The `authorization` of a NATS server, from the configurations of the hosts: what `homelab-deploy nats-config` prints for the
# same hosts and keys, for services.nats.settings.authorization. A test holds the two against each other.
{ lib }:
{
  # The hosts of a flake, as in `inputs.self.nixosConfigurations`. Those without an enabled listener are left out.
  nixosConfigurations,
  # The public keys of those who may deploy to every host.
  admins ? [ ],
  # The public keys of those who may deploy to hosts of the test tier.
  testDeployers ? [ ],
}:
let
  listeners = lib.filter (listener: listener.enable or false) (
    lib.mapAttrsToList (
      _: host: host.config.services.homelab-deploy.listener or { }
    ) nixosConfigurations
  );
  keyless = map (listener: listener.hostname) (lib.filter (l: l.publicKey == null) listeners);

  user = nkey: permissions: { inherit nkey permissions; };

  # As the listener fills them in: without a role there is no subject for it, and each subject is taken once.
  subjects =
    {
      hostname,
      tier,
      role,
      deploySubjects,
      ...
    }:
    lib.unique (
      map
        (lib.replaceStrings
          [
            "<hostname>"
            "<tier>"
            "<role>"
          ]
          [
            hostname
            tier
            (toString role)
          ]
        )
        (lib.filter (subject: role != null || !(lib.hasInfix "<role>" subject)) deploySubjects)
    );

  # Nobody but this host publishes below its own prefix, so the server proves who answers.
  listener =
    host@{ tier, ... }:
    user host.publicKey {
      publish = [ "deploy.responses.${tier}.${host.hostname}.>" ];
      subscribe = subjects host ++ [
        host.discoverSubject
        "${host.discoverSubject}.${tier}"
      ];
    };

  questions = [
    "deploy.discover"
    "deploy.discover.test"
    "deploy.operators.test.>"
  ];
  testDeployer =
    key:
    user key {
      publish = [ "deploy.test.>" ] ++ questions;
      subscribe = [ "deploy.responses.test.>" ] ++ questions;
    };

  admin =
    key:
    user key {
      publish = [ "deploy.>" ];
      subscribe = [ "deploy.>" ];
    };

  users = map listener listeners ++ map testDeployer testDeployers ++ map admin admins;
  keys = map ({ nkey, ... }: nkey) users;
in
if keyless != [ ] then
  throw "natsAuthorization: set services.homelab-deploy.listener.publicKey of ${lib.concatStringsSep ", " keyless} to the key that `homelab-deploy keygen` printed"
else if lib.unique keys != keys then
  throw "natsAuthorization: two users have the same key, and the server tells users apart by their keys"
else
  { inherit users; }
