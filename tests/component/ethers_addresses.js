// Accounts by ethers, which shares no code with the wallet: reads a JSON list of {seed, account, command} on stdin, `command`
// being what the design hashes, and writes what ethers makes of each.
const { HDNodeWallet, ripemd160, sha256, toUtf8Bytes } = require("ethers");

const byCodePoint = (one, other) => Buffer.compare(Buffer.from(one), Buffer.from(other)); // UTF-8 keeps that order

function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const members = Object.keys(value).sort(byCodePoint).map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`);
  return `{${members.join(",")}}`;
}

function answer({ seed, account, command }) {
  const identity = BigInt(sha256(toUtf8Bytes(canonical(command))));
  const steps = [225n, 194n, 163n].map((shift) => (identity >> shift) & ((1n << 31n) - 1n));
  const root = HDNodeWallet.fromSeed(`0x${seed}`);
  const accountKey = root.derivePath(`m/44'/60'/${account}'`);
  const path = `m/44'/60'/${account}'/${steps.join("/")}`;
  return {
    path,
    address: root.derivePath(path).address,
    xpub: accountKey.neuter().extendedKey,
    xprv: accountKey.extendedKey,
    fingerprint: ripemd160(sha256(accountKey.publicKey)).slice(2),
    gas_address: root.derivePath(`m/44'/60'/${account}'/0'/0`).address,
  };
}

const chunks = [];
process.stdin.on("data", (chunk) => chunks.push(chunk));
process.stdin.on("end", () => {
  process.stdout.write(JSON.stringify(JSON.parse(Buffer.concat(chunks).toString("utf8")).map(answer)));
});
