/**
 * A real S3 server for tests: a Ceph cluster of one node on loopback, its objects in memory (../shared/s3/ceph-s3 beside the repository).
 *
 * Where there is none, tests of S3 are left out (vite.config.ts); CI has it, and fails without.
 */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { CreateBucketCommand, DeleteBucketCommand, S3Client } from '@aws-sdk/client-s3';
import { findFreePort } from '../../server/process/ports.ts';

const run = promisify(execFile);
const root = resolve(import.meta.dirname, '../..').replace(/\/dist$/, '');
const script = resolve(root, '../shared/s3/ceph-s3');

/** Whether there is a server to test with. */
export const hasCeph = (): boolean => existsSync(script) && ['/usr/bin/ceph-mon', '/usr/bin/radosgw'].every(existsSync);

export class Ceph {
  readonly #dir: string;
  /** AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID, ... */
  readonly env: Readonly<Record<string, string>>;
  #nextBucket = 1;

  private constructor(dir: string, env: Readonly<Record<string, string>>) {
    this.#dir = dir;
    this.env = env;
  }

  /** About 12 seconds. */
  static async start(): Promise<Ceph> {
    const dir = await mkdtemp(join(tmpdir(), 'pagelite-ceph-'));
    // Far from other tests' ports, and below those that the system gives to connections: the monitor takes the next one.
    const port = await findFreePort(28_000 + (process.pid % 1_000) * 4);
    try {
      const { stdout } = await run(script, ['start', dir, String(port)], { timeout: 120_000 });
      const lines = stdout.split('\n').filter((line) => line.includes('='));
      const env = lines.map((line): [string, string] => [
        line.slice(0, line.indexOf('=')),
        line.slice(line.indexOf('=') + 1),
      ]);
      return new Ceph(dir, Object.fromEntries(env));
    } catch (error) {
      await run(script, ['stop', dir]);
      throw error;
    }
  }

  async newBucket(): Promise<string> {
    const bucket = `bucket-${this.#nextBucket++}`;
    await this.client().send(new CreateBucketCommand({ Bucket: bucket }));
    return bucket;
  }

  async deleteBucket(bucket: string): Promise<void> {
    await this.client().send(new DeleteBucketCommand({ Bucket: bucket }));
  }

  client(): S3Client {
    return new S3Client({
      endpoint: this.env.AWS_ENDPOINT_URL_S3!,
      forcePathStyle: true,
      region: this.env.AWS_REGION!,
      credentials: { accessKeyId: this.env.AWS_ACCESS_KEY_ID!, secretAccessKey: this.env.AWS_SECRET_ACCESS_KEY! },
      requestChecksumCalculation: 'WHEN_REQUIRED',
      responseChecksumValidation: 'WHEN_REQUIRED',
    });
  }

  /** Killed and started again: whatever is under way is cut off. */
  async restartGateway(): Promise<void> {
    await run(script, ['restart-gateway', this.#dir], { timeout: 120_000 });
  }

  /** Until it is restarted nobody answers; what is stored stays. */
  async killGateway(): Promise<void> {
    const pid = Number(await readFile(join(this.#dir, 'run/rgw.pid'), 'utf8'));
    process.kill(pid, 'SIGKILL');
  }

  async stop(): Promise<void> {
    await run(script, ['stop', this.#dir]);
    await rm(this.#dir, { recursive: true, force: true });
  }
}
