/**
 * The Postgres port asks who comes, as PostgreSQL does: with real psql and node-postgres, over TLS and without. A failed proof looks the same
 * whatever failed, costs its connection, and leaves the endpoint as it was.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { connect as tcpConnect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as tlsConnect } from 'node:tls';
import type { Client, ClientConfig } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { RepositoryRig, runProgram } from '../support/repository-rig.ts';

const { Client: PgClient } = createRequire(import.meta.url)('pg') as typeof import('pg');

const password = 'correct horse battery staple';
let rig: RepositoryRig;
let certificates: string;

beforeAll(async () => {
  rig = new RepositoryRig();
  certificates = mkdtempSync(join(tmpdir(), 'pagelite-tls-'));
  makeCertificates(certificates);
  await rig.start('--auth');
  await rig.endpoint('main', '--host', '0.0.0.0', ...tlsFlags());
  await setPassword('main', password);
  await sql(`create role app login password 'app password'; create role nologin password 'p';
    create role nopassword login; create role expired login password 'p' valid until '2020-01-01';
    create role later login password 'p' valid until '2999-01-01'; set password_encryption = md5;
    create role hashed login password 'p'; reset password_encryption; create table mine(a int)`);
});
afterAll(async () => {
  await rig.close();
  rmSync(certificates, { recursive: true });
});

const file = (name: string) => join(certificates, name);
const tlsFlags = () => ['--tls-cert', file('server.crt'), '--tls-key', file('server.key')];

async function setPassword(endpoint: string, text: string, ...more: string[]): Promise<void> {
  const entry = [join(import.meta.dirname, '../../dist/server/cli/main.js'), 'endpoint', 'set-password', endpoint];
  const { code, err } = await runProgram(process.execPath, [...entry, ...more], rig.cwd, `${text}\n`);
  if (code !== 0) throw new Error(err);
}

async function connect(config: ClientConfig = {}): Promise<Client> {
  const client = new PgClient({
    host: '127.0.0.1',
    port: rig.port('main'),
    user: 'cloud_admin',
    password,
    database: 'postgres',
    ...config,
  });
  client.on('error', () => {});
  await client.connect();
  return client;
}

async function sql(text: string, config: ClientConfig = {}): Promise<unknown[]> {
  const client = await connect(config);
  try {
    const result = await client.query(text);
    return (Array.isArray(result) ? result.at(-1) : result).rows;
  } finally {
    await client.end();
  }
}

const refusal = (user: string, text: string) =>
  sql('select 1', { user, password: text }).then(
    () => null,
    (error: Error & { code?: string }) => ({ code: error.code, message: error.message }),
  );

function psql(parameters: string, secret: string | null, query = 'select session_user'): ReturnType<typeof runProgram> {
  const where = `host=localhost port=${rig.port('main')} dbname=postgres ${parameters}`;
  const environment = [`PGPASSWORD=${secret ?? ''}`, `PGSSLROOTCERT=${file('ca.crt')}`];
  return runProgram('env', [...environment, 'psql', '-X', '-w', '-At', where, '-c', query], rig.cwd);
}

describe('passwords', () => {
  it('the right one opens a session with the rights of its role', async () => {
    const { code, out } = await psql('user=app', 'app password');
    expect([code, out]).toEqual([0, 'app\n']);
    expect(await sql('select current_user::text as name', { user: 'app', password: 'app password' })).toEqual([
      { name: 'app' },
    ]);
    const denied = { user: 'app', password: 'app password' };
    for (const text of ['select * from mine', 'set session authorization cloud_admin', 'set role cloud_admin']) {
      await expect(sql(text, denied)).rejects.toMatchObject({ code: '42501' });
    }
    await expect(sql('select 1', { ...denied, options: '-c role=cloud_admin' })).rejects.toMatchObject({
      code: '42501',
    });
  });

  it('psql hears of a wrong one, and of none', async () => {
    const wrong = await psql('user=cloud_admin', 'wrong');
    expect([wrong.code, wrong.err]).toEqual([
      2,
      expect.stringContaining('password authentication failed for user "cloud_admin"'),
    ]);
    const none = await psql('user=cloud_admin', null);
    expect([none.code, none.err]).toEqual([2, expect.stringContaining('no password supplied')]);
  });

  it('what fails is not said: 28P01 for everything', async () => {
    for (const user of ['app', 'nopassword', 'expired', 'hashed', 'nologin', 'nobody', "o'brien", 'Ünbekannt']) {
      const message = `password authentication failed for user "${user}"`;
      expect(await refusal(user, 'wrong')).toEqual({ code: '28P01', message });
    }
    for (const user of ['expired', 'hashed']) expect((await refusal(user, 'p'))?.code).toBe('28P01');
    // The log says it.
    const log = readFileSync(join(rig.dir, 'endpoints/main/compute.log'), 'utf8');
    for (const reason of ['MD5 hash', 'VALID UNTIL', 'no such role, or it has no password', 'another password']) {
      expect(log).toContain(reason);
    }
    expect(log).not.toContain(password);
    expect(await refusal('later', 'p')).toBe(null);
  });

  it('a role that may not log in is told so, once it has proved who it is', async () => {
    expect(await refusal('nologin', 'p')).toEqual({
      code: '28000',
      message: 'role "nologin" is not permitted to log in',
    });
  });

  it('ALTER ROLE holds for those who come after it, and those that are here stay', async () => {
    const open = await connect({ user: 'app', password: 'app password' });
    await sql("alter role app password 'another'");
    expect((await refusal('app', 'app password'))?.code).toBe('28P01');
    expect(await refusal('app', 'another')).toBe(null);
    await open.query('select 1');
    await open.end();
    await setPassword('main', 'app password', '--role', 'app');
    expect(await refusal('app', 'app password')).toBe(null);
    await sql('alter role app nologin');
    expect((await refusal('app', 'app password'))?.code).toBe('28000');
    await sql('alter role app login');
  });

  it('a password of all kinds of letters', async () => {
    for (const text of ['pässwörd', 'İstanbul ﬁx', '密码', " a'b\\c ", 'x'.repeat(300)]) {
      await setPassword('main', text, '--role', 'app');
      const { code, err } = await psql('user=app', text);
      expect([text, code, err]).toEqual([text, 0, '']);
    }
    await setPassword('main', 'app password', '--role', 'app');
  });

  it('the log has why, the process list and the logs have no password; commands refuse what cannot be', async () => {
    expect((await rig.run('endpoint', 'set-password', 'main')).err).toContain('the password is empty');
    await expect(setPassword('main', 'x', '--role', 'nobody')).rejects.toThrow('role "nobody" does not exist');
    await expect(setPassword('nowhere', 'x')).rejects.toThrow('no endpoint "nowhere"');
  });

  it('whoever owns the files of the endpoint gets in without, by a socket that nobody else can open', async () => {
    const path = join(rig.dir, 'endpoints/main', `.s.PGSQL.${rig.port('main')}`);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const args = [
      '-h',
      join(rig.dir, 'endpoints/main'),
      '-p',
      String(rig.port('main')),
      '-U',
      'cloud_admin',
      '-XAtw',
      'postgres',
    ];
    expect((await runProgram('psql', [...args, '-c', 'select 1'], rig.cwd)).out).toBe('1\n');
  });

  it('garbage in place of a proof costs its connection only', async () => {
    const startup = Buffer.from('\0\0\0\x26\0\x03\0\0user\0cloud_admin\0database\0x\0\0', 'latin1');
    startup.writeUInt32BE(startup.length);
    const frame = (type: string, body: Buffer) => {
      const header = Buffer.alloc(5);
      header.write(type);
      header.writeUInt32BE(4 + body.length, 1);
      return Buffer.concat([header, body]);
    };
    const initial = (mechanism: string, text: string) => {
      const length = Buffer.alloc(4);
      length.writeInt32BE(text.length);
      return frame('p', Buffer.concat([Buffer.from(`${mechanism}\0`), length, Buffer.from(text)]));
    };
    const attempts = [
      frame('Q', Buffer.from('select 1\0')),
      frame('p', Buffer.from('SCRAM-SHA-256')),
      frame('p', Buffer.alloc(2000)),
      initial('MD5', 'x'),
      initial('SCRAM-SHA-256-PLUS', 'p=tls-server-end-point,,n=,r=x'),
      initial('SCRAM-SHA-256', 'p=tls-server-end-point,,n=,r=x'),
      initial('SCRAM-SHA-256', 'garbage'),
      Buffer.concat([initial('SCRAM-SHA-256', 'n,,n=,r=x'), frame('p', Buffer.from('garbage'))]),
      Buffer.concat([initial('SCRAM-SHA-256', 'n,,n=,r=x'), frame('Q', Buffer.from('select 1\0'))]),
    ];
    const pid = rig.pid({ endpoint: 'main' });
    for (const attempt of attempts) {
      const answer = await exchange(Buffer.concat([startup, attempt]));
      expect(answer).toMatch(/C(08P01|28000)/);
      expect(answer).not.toContain('ReadyForQuery');
    }
    expect(await sql('select 1 as one')).toEqual([{ one: 1 }]);
    expect(rig.pid({ endpoint: 'main' })).toBe(pid);
  });
});

it('clients that leave at any moment of the exchange hold nobody up', async () => {
  const holder = await connect();
  await holder.query('begin; select 1');
  const startup = Buffer.from('\0\0\0\0\0\x03\0\0user\0cloud_admin\0database\0postgres\0\0', 'latin1');
  startup.writeUInt32BE(startup.length);
  const leaving = Array.from(
    { length: 60 },
    (_, i) =>
      new Promise<void>((resolve) => {
        const socket = tcpConnect(rig.port('main'), '127.0.0.1', () => {
          socket.write(startup.subarray(0, i % 3 === 0 ? 10 : startup.length));
          if (i % 3 < 2) setImmediate(() => socket.destroy());
        });
        // The others leave when they are asked for their password.
        socket.on('data', () => socket.destroy());
        socket.on('error', () => {});
        socket.on('close', () => resolve());
      }),
  );
  await holder.query('commit');
  await Promise.all(leaving);
  expect(await sql('select 1 as one')).toEqual([{ one: 1 }]);
  await holder.query('select 1');
  await holder.end();
});

describe('TLS', () => {
  it.each(['disable', 'prefer', 'require', 'verify-ca', 'verify-full'])('psql with sslmode=%s', async (mode) => {
    const { code, out, err } = await psql(`user=cloud_admin sslmode=${mode}`, password);
    expect([code, out, err]).toEqual([0, 'cloud_admin\n', '']);
  });

  it('psql with another CA, or another name, turns away', async () => {
    const where = `host=127.0.0.2 port=${rig.port('main')} dbname=postgres user=cloud_admin sslmode=verify-full`;
    const args = ['psql', '-X', '-w', where, '-c', 'select 1'];
    const environment = [`PGPASSWORD=${password}`, `PGSSLROOTCERT=${file('ca.crt')}`];
    expect((await runProgram('env', [...environment, ...args], rig.cwd)).code).toBe(2);
  });

  it('the proof is bound to the certificate', async () => {
    const bound = await psql('user=cloud_admin sslmode=require channel_binding=require', password);
    expect([bound.code, bound.err]).toEqual([0, '']);
    const plain = await psql('user=cloud_admin sslmode=disable channel_binding=require', password);
    expect(plain.code).toBe(2);
    const ssl = { ca: readFileSync(file('ca.crt')) };
    const client = { enableChannelBinding: true, ssl, host: 'localhost' } as ClientConfig;
    expect(await sql('select 1 as one', client)).toEqual([{ one: 1 }]);
  });

  it('a lot of data, and a cancel, both over TLS', async () => {
    const { code, out } = await psql(
      'user=cloud_admin sslmode=require',
      password,
      "select length(repeat('x', 20000000)), count(*) from generate_series(1, 100000)",
    );
    expect([code, out]).toEqual([0, '20000000|100000\n']);
    const ssl = { ca: readFileSync(file('ca.crt')) };
    const sum = await sql(
      "select sum(length(t))::int as n from (select repeat('x', 1000) as t from generate_series(1, 10000)) as s",
      { ssl, host: 'localhost' },
    );
    expect(sum).toEqual([{ n: 10_000_000 }]);
    // psql -c with a statement timeout of its own would not send a cancel; SIGINT does, over TLS.
    const script = `exec timeout -s INT 3 psql -X -w "$0" -c "select pg_sleep(60)"`;
    const where = `host=localhost port=${rig.port('main')} dbname=postgres user=cloud_admin sslmode=require`;
    const cancelled = await runProgram('env', [`PGPASSWORD=${password}`, 'sh', '-c', script, where], rig.cwd);
    expect(cancelled.err).toContain('canceling statement due to user request');
  });

  it('without asking first, with ALPN, as PostgreSQL 17 clients do', async () => {
    const port = rig.port('main');
    const hello = (ALPNProtocols?: string[]) =>
      new Promise<string>((resolve) => {
        const socket = tlsConnect({
          host: '127.0.0.1',
          port,
          ca: readFileSync(file('ca.crt')),
          ...(ALPNProtocols && { ALPNProtocols }),
        });
        socket.on('error', (error) => resolve(error.message));
        socket.on('close', () => resolve('closed'));
        socket.once('secureConnect', () => {
          const startup = Buffer.from('\0\0\0\0\0\x03\0\0user\0cloud_admin\0\0', 'latin1');
          startup.writeUInt32BE(startup.length);
          socket.write(startup);
        });
        socket.once('data', (chunk: Buffer) => {
          socket.destroy();
          resolve(chunk.toString('latin1'));
        });
      });
    expect(await hello(['postgresql'])).toContain('SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0');
    expect(await hello()).not.toContain('SCRAM');
    expect(await hello(['h2'])).not.toContain('SCRAM');
  });

  it('bytes that were sent before the encryption are not taken for what comes after', async () => {
    const answer = await exchange(Buffer.from('\0\0\0\x08\x04\xd2\x16\x2fmore', 'latin1'));
    expect(answer).toBe('');
  });

  it('an endpoint can insist on it, and takes a renewed certificate without a restart', async () => {
    await rig.ok('endpoint', 'stop', 'main');
    await rig.ok('endpoint', 'start', 'main', '--require-tls');
    const plain = await psql('user=cloud_admin sslmode=disable', password);
    expect([plain.code, plain.err]).toEqual([2, expect.stringContaining('takes encrypted connections only')]);
    await expect(sql('select 1')).rejects.toMatchObject({ code: '28000' });
    expect((await psql('user=cloud_admin sslmode=verify-full', password)).code).toBe(0);
    makeCertificates(certificates);
    expect((await psql('user=cloud_admin sslmode=verify-full channel_binding=require', password)).code).toBe(0);
  });
});

describe('what does not go together is refused, with the way out', () => {
  it.each([
    [['--host', '0.0.0.0', '--auth', 'trust'], '--auth scram-sha-256'],
    [['--require-tls'], 'needs --tls-cert'],
    [['--tls-cert', '/nowhere.crt'], 'go together'],
    [['--tls-cert', '/nowhere.crt', '--tls-key', '/nowhere.key'], '/nowhere.crt cannot be read'],
  ])('endpoint create %j', async (flags, says) => {
    expect(await rig.refused('endpoint', 'create', 'other', ...flags)).toContain(says);
    expect(await rig.ok('endpoint', 'list')).not.toContain('other');
  });
});

/** Sends bytes to the port and gives all that comes back until it is closed. */
function exchange(bytes: Buffer): Promise<string> {
  return new Promise((resolve) => {
    const socket = tcpConnect(rig.port('main'), '127.0.0.1');
    const answer: Buffer[] = [];
    socket.on('error', () => {});
    socket.on('data', (chunk: Buffer) => answer.push(chunk));
    socket.on('close', () => resolve(Buffer.concat(answer).toString('latin1')));
    socket.write(bytes);
  });
}

/** A CA, and a certificate of it for localhost. */
function makeCertificates(dir: string): void {
  const script = `set -e; cd "$0"
    openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=test-ca
    openssl req -newkey rsa:2048 -nodes -keyout new.key -out server.csr -subj /CN=localhost
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1' > names
    openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out new.crt -days 2 -extfile names
    mv new.key server.key; mv new.crt server.crt`;
  execFileSync('sh', ['-c', script, dir], { stdio: 'ignore' });
}
