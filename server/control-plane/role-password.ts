/**
 * Passwords of roles, set from the machine that an endpoint runs on: over its Unix socket, which only the owner of its files can open (where there are no
 * passwords, over its port).
 *
 * Invariant: a password leaves this process only as the secret that PostgreSQL keeps of it: no statement, no log and no argument has it.
 */
import { createRequire } from 'node:module';
import type { DatabaseError } from 'pg';
import { messageOf, PageliteError } from '../../engine/errors.ts';
import { localSocketPath } from '../compute/admission.ts';
import { makeScramSecret } from '../compute/scram.ts';
import { type Endpoint, statusOf } from './endpoints.ts';
import { localhost } from './repository.ts';

// A CommonJS module whose names only `require` finds.
const { Client, escapeIdentifier, escapeLiteral } = createRequire(import.meta.url)('pg') as typeof import('pg');

/** Throws `invalid` if the endpoint does not run, `notFound` if there is no such role. */
export async function setRolePassword(endpoint: Endpoint, role: string, password: string): Promise<void> {
  const { name } = endpoint;
  if (password === '') throw new PageliteError('invalid', 'the password is empty');
  if (statusOf(endpoint) !== 'running') {
    throw new PageliteError(
      'invalid',
      `endpoint "${name}" does not run. Start it with: pagelite endpoint start ${name}`,
    );
  }
  const client = await connect(endpoint);
  try {
    await client.query(`ALTER ROLE ${escapeIdentifier(role)} PASSWORD ${escapeLiteral(makeScramSecret(password))}`);
  } catch (error) {
    const isUnknown = (error as DatabaseError).code === '42704';
    throw new PageliteError(isUnknown ? 'notFound' : 'invalid', `endpoint "${name}" refused: ${messageOf(error)}`, {
      role,
    });
  } finally {
    await client.end();
  }
}

async function connect({ name, dir, config }: Endpoint): Promise<InstanceType<typeof Client>> {
  const host = config.auth === 'trust' ? (config.host ?? localhost) : dir;
  const client = new Client({ host, port: config.pgPort, user: 'cloud_admin', database: 'postgres', ssl: false });
  client.on('error', () => {});
  try {
    await client.connect();
    return client;
  } catch (cause) {
    const where = config.auth === 'trust' ? `port ${config.pgPort}` : localSocketPath(dir, config.pgPort);
    const text = `endpoint "${name}" cannot be reached at ${where}: ${messageOf(cause)}`;
    throw new PageliteError('unavailable', text, { endpoint: name }, { cause });
  }
}
