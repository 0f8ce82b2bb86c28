/**
 * The server's side of SCRAM-SHA-256: RFC 7677's example, what PostgreSQL keeps of a password, and every way in which a client may get it wrong.
 */
import { createHash, createHmac, pbkdf2Sync } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import {
  makeScramSecret,
  mockScramSecret,
  parseScramSecret,
  ScramExchange,
  type ScramExchangeOptions,
  scramMechanism,
  scramPlusMechanism,
} from '../../server/compute/scram.ts';

/** RFC 7677, section 3. */
const example = {
  password: 'pencil',
  salt: Buffer.from('W22ZaJ0SNY7soEsUEjb6gQ==', 'base64'),
  serverNonce: '%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0',
  clientFirst: 'n,,n=user,r=rOprNGfwEbeRWgbNEkqO',
  serverFirst: 'r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096',
  clientFinal:
    'c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=',
  serverFinal: 'v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=',
};
const secret = parseScramSecret(makeScramSecret(example.password, example.salt))!;
const exchange = (more: Partial<ScramExchangeOptions> = {}) =>
  new ScramExchange({
    secret,
    doomed: false,
    endPointHash: null,
    mechanism: scramMechanism,
    nonce: example.serverNonce,
    ...more,
  });

/** A client's last message. */
function clientFinal(password: string, clientFirst: string, serverFirst: string, binding: Buffer): string {
  const [, nonce, salt, iterations] = /^r=(.*),s=(.*),i=(.*)$/.exec(serverFirst)!;
  const salted = pbkdf2Sync(password, Buffer.from(salt!, 'base64'), Number(iterations), 32, 'sha256');
  const hmac = (key: Uint8Array, text: string) => createHmac('sha256', key).update(text).digest();
  const clientKey = hmac(salted, 'Client Key');
  const storedKey = createHash('sha256').update(clientKey).digest();
  const withoutProof = `c=${binding.toString('base64')},r=${nonce}`;
  const bare = clientFirst.slice(clientFirst.indexOf('n='));
  const signature = hmac(storedKey, `${bare},${serverFirst},${withoutProof}`);
  const proof = Buffer.from(clientKey.map((byte, i) => byte ^ signature[i]!));
  return `${withoutProof},p=${proof.toString('base64')}`;
}

describe('the exchange', () => {
  it("is RFC 7677's example", () => {
    const server = exchange();
    expect(server.begin(example.clientFirst)).toBe(example.serverFirst);
    expect(server.finish(example.clientFinal)).toBe(example.serverFinal);
  });

  it('another password, or another secret, does not fit', () => {
    const other = exchange({ secret: parseScramSecret(makeScramSecret('pencils', example.salt))! });
    other.begin(example.clientFirst);
    expect(other.finish(example.clientFinal)).toBe(null);
    const doomed = exchange({ doomed: true });
    doomed.begin(example.clientFirst);
    expect(doomed.finish(example.clientFinal)).toBe(null);
  });

  it('a role that is not there is asked as if it were, each time the same', () => {
    const nonce = Buffer.from('secret');
    const ask = (user: string) =>
      exchange({ secret: mockScramSecret(nonce, user), doomed: true }).begin(example.clientFirst);
    expect(ask('nobody')).toMatch(/^r=[^,]+,s=[A-Za-z0-9+/]{22}==,i=4096$/);
    expect(ask('nobody')).toBe(ask('nobody'));
    expect(ask('nobody')).not.toBe(ask('somebody'));
    const server = exchange({ secret: mockScramSecret(nonce, 'nobody'), doomed: true });
    const first = server.begin(example.clientFirst);
    expect(server.finish(clientFinal('guess', example.clientFirst, first, Buffer.from('n,,')))).toBe(null);
  });

  it('binds to the certificate that the client sees, and to no other', () => {
    const endPointHash = createHash('sha256').update('certificate').digest();
    const header = 'p=tls-server-end-point,,';
    const run = (hash: Buffer) => {
      const server = exchange({ endPointHash, mechanism: scramPlusMechanism });
      const first = server.begin(`${header}n=,r=abc`);
      return server.finish(
        clientFinal('pencil', `${header}n=,r=abc`, first, Buffer.concat([Buffer.from(header), hash])),
      );
    };
    expect(run(endPointHash)).toMatch(/^v=/);
    expect(() => run(createHash('sha256').update('another').digest())).toThrow('channel binding check failed');
  });

  it('a client that does not bind although it could was told a lie on the way', () => {
    expect(() => exchange({ endPointHash: Buffer.alloc(32) }).begin('y,,n=,r=abc')).toThrow('negotiation error');
    expect(exchange().begin('y,,n=,r=abc')).toMatch(/^r=abc/);
  });

  it.each([
    '',
    'n',
    'x,,n=,r=abc',
    'n,,r=abc',
    'n,,n=user',
    'n,,n=user,r=',
    'n,,m=must,n=user,r=abc',
    'n,a=admin,n=user,r=abc',
    'p=tls-unique,,n=user,r=abc',
    'p=tls-server-end-point,,n=user,r=abc',
    'n,,n=user,r=\u0000',
  ])('a first message that is none is refused: %j', (text) => {
    expect(() => exchange().begin(text)).toThrow();
  });

  it.each([
    '',
    'c=biws',
    example.clientFinal.replace('c=biws', 'c=eSws'),
    example.clientFinal.replace('NEkqO%', 'NEkqO'),
    example.clientFinal.replace(/p=.*/, 'p=AAAA'),
    example.clientFinal.replace(/,p=.*/, ''),
  ])('a last message that is none is refused: %j', (text) => {
    const server = exchange();
    server.begin(example.clientFirst);
    expect(() => server.finish(text)).toThrow();
  });
});

describe('secrets', () => {
  it('come back as they were made', () => {
    const text = makeScramSecret('pencil');
    expect(text).toMatch(/^SCRAM-SHA-256\$4096:[^$]{24}\$[^:]{44}:[^:]{44}$/);
    expect(parseScramSecret(text)!.iterations).toBe(4096);
    expect(makeScramSecret('pencil')).not.toBe(text);
  });

  it.each(['', 'md5aabbccdd', 'SCRAM-SHA-256$4096:c2FsdA==$AAAA:AAAA', 'SCRAM-SHA-256$0:c2FsdA==$x:y', 'password'])(
    'what is no SCRAM secret is none: %j',
    (text) => expect(parseScramSecret(text)).toBe(null),
  );

  it('passwords are prepared with SASLprep, and taken as they are where that forbids them', () => {
    const salt = Buffer.alloc(16);
    // A soft hyphen goes, a ligature is spelled out, a non-ASCII space is a space: RFC 4013, section 3.
    expect(makeScramSecret('I\u00adX', salt)).toBe(makeScramSecret('IX', salt));
    expect(makeScramSecret('\ufb01x', salt)).toBe(makeScramSecret('fix', salt));
    expect(makeScramSecret('a\u00a0b', salt)).toBe(makeScramSecret('a b', salt));
    expect(makeScramSecret('a\u0007b', salt)).not.toBe(makeScramSecret('ab', salt));
  });
});
