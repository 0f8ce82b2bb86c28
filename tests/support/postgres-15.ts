/**
 * A throw-away cluster of Debian's PostgreSQL 15, on a Unix socket in a folder of its own: the place that dumps for restore tests come from.
 *
 * Its programs refuse to run as root, so for root they run as `postgres`. Null where the package is not installed.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';

const bin = '/usr/lib/postgresql/15/bin';
const asRoot = userInfo().uid === 0;

export const hasPostgres15 =
  existsSync(`${bin}/initdb`) && (!asRoot || spawnSync('runuser', ['-u', 'postgres', 'true']).status === 0);

export class Postgres15 {
  readonly #folder = mkdtempSync(join(tmpdir(), 'pagelite-pg15-'));

  constructor() {
    chmodSync(this.#folder, 0o777);
    this.#run('initdb', ['-D', this.#data, '-A', 'trust', '-U', 'postgres', '-N', '--locale=C', '-E', 'UTF8']);
    const options = `-c listen_addresses='' -c unix_socket_directories='${this.#folder}' -c fsync=off`;
    this.#run('pg_ctl', ['-D', this.#data, '-w', '-l', join(this.#folder, 'log'), '-o', options, 'start']);
  }

  get #data(): string {
    return join(this.#folder, 'data');
  }

  #run(program: string, args: readonly string[], input?: string): string {
    const command = asRoot ? ['runuser', '-u', 'postgres', '--', `${bin}/${program}`] : [`${bin}/${program}`];
    return execFileSync(command[0]!, [...command.slice(1), ...args], {
      cwd: this.#folder,
      encoding: 'utf8',
      maxBuffer: 256 * 1024 * 1024,
      input: input ?? '',
      // The server keeps what it inherits open: nothing of ours may wait for it.
      stdio: ['pipe', program === 'pg_ctl' ? 'ignore' : 'pipe', program === 'pg_ctl' ? 'ignore' : 'pipe'],
    });
  }

  /** Runs a script; unaligned rows of what it selects. */
  psql(script: string): string {
    const args = ['-h', this.#folder, '-U', 'postgres', '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', '-f', '-'];
    return this.#run('psql', [...args, 'postgres'], script);
  }

  /** The database as a script for psql. */
  dump(): string {
    return this.#run('pg_dump', ['-h', this.#folder, '-U', 'postgres', '--no-owner', 'postgres']);
  }

  stop(): void {
    this.#run('pg_ctl', ['-D', this.#data, '-m', 'immediate', 'stop']);
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
