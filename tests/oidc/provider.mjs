// The OpenID provider that tests log in at: `node provider.mjs CONFIG`, CONFIG as JSON in one argument. Who logs in is
// who says so: its pages are those that the library has for trying out.
import Provider from "oidc-provider";

const { issuer, port, client, jwks } = JSON.parse(process.argv[2]);
const provider = new Provider(issuer, {
  clients: [client],
  jwks,
  cookies: { keys: ["signs the cookies of a test"] },
  features: { devInteractions: { enabled: true }, backchannelLogout: { enabled: true } },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  // Without its guard against addresses that are not public: the notice of a logout stays on this machine.
  fetch: (url, { dispatcher, ...options }) => fetch(url, options),
  pkce: { required: () => true },
});
provider.listen(port, "127.0.0.1", () => console.log("ready"));
