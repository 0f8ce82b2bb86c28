/**
 * S3ObjectStore on a real S3 server, alone and behind a local disk.
 *
 * Must hold: the contract of object stores; nothing is lost or half there when the gateway is killed in the middle; what is wrong with bucket, key or network
 * is told with the object's name and what to do, and never with a secret.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { S3ObjectStore } from '../../server/object-store/s3.ts';
import { TieredObjectStore } from '../../server/object-store/tiered.ts';
import { silentLog } from '../../server/process/node-host.ts';
import { runObjectStoreContract } from '../contracts/object-store.ts';
import { Ceph } from '../support/ceph.ts';
import { SeededRandom } from '../support/seeded-random.ts';

let ceph: Ceph;
let previous: NodeJS.ProcessEnv;
beforeAll(async () => {
  ceph = await Ceph.start();
  previous = { ...process.env };
  Object.assign(process.env, ceph.env);
}, 180_000);
afterAll(async () => {
  process.env = previous;
  await ceph?.stop();
});

const open = async (prefix = 'a/prefix/') => S3ObjectStore.open({ bucket: await ceph.newBucket(), prefix });
const layerKey = (n: number): string =>
  `tenants/t/timelines/l/${'0'.repeat(36)}-${'03'.padEnd(36, '0')}__${(n + 1).toString(16).toUpperCase().padStart(16, '0')}-00000001`;

runObjectStoreContract('S3', async () => ({ store: await open(), close: async () => {} }));
runObjectStoreContract('S3 behind a local disk', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'pagelite-tier-'));
  const store = await TieredObjectStore.open({ remote: await open(''), folder, budgetBytes: 5e6, log: silentLog });
  return { store, close: () => rm(folder, { recursive: true }) };
});

describe('what is wrong is told', () => {
  const failure = async (work: Promise<unknown>) => {
    const error = (await work.then(
      () => null,
      (e: unknown) => e,
    )) as Error | null;
    expect(error).toMatchObject({ kind: 'unavailable' });
    expect(JSON.stringify(error)).not.toContain('secret');
    return error!.message;
  };

  it('a bucket that does not exist, or vanishes', async () => {
    const none = await S3ObjectStore.open({ bucket: 'nowhere', prefix: '' });
    expect(await failure(none.checkAccess())).toMatch(/bucket nowhere at http:.*does not exist/);
    const bucket = await ceph.newBucket();
    const store = await S3ObjectStore.open({ bucket, prefix: '' });
    await store.checkAccess();
    await ceph.deleteBucket(bucket);
    const uses = [() => store.get('x/y'), () => store.put('x/y', new Uint8Array(1)), () => store.head('x/y')];
    for (const use of uses) {
      expect(await failure(use())).toMatch(new RegExp(`object x/y in bucket ${bucket} .*does not exist`));
    }
    expect(await failure(store.list('x/'))).toMatch(/does not exist/);
  });

  it('wrong credentials, and none', async () => {
    const bucket = await ceph.newBucket();
    const openWith = async (env: Record<string, string>, without: readonly string[] = []) => {
      const before = { ...process.env };
      Object.assign(process.env, env);
      for (const name of without) delete process.env[name];
      try {
        const store = await S3ObjectStore.open({ bucket, prefix: '' });
        return await failure(store.checkAccess());
      } finally {
        process.env = before;
      }
    };
    expect(await openWith({ AWS_SECRET_ACCESS_KEY: 'wrong' })).toMatch(/not accepted|denied/);
    expect(await openWith({ AWS_ACCESS_KEY_ID: 'nobody' })).toMatch(/not accepted|denied/);
    const nowhere = {
      AWS_SHARED_CREDENTIALS_FILE: '/nonexistent',
      AWS_CONFIG_FILE: '/nonexistent',
      AWS_EC2_METADATA_DISABLED: 'true',
    };
    expect(await openWith(nowhere, ['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY'])).toMatch(
      /there are no credentials: set AWS_ACCESS_KEY_ID/,
    );
  });

  it('a server that is away, and one that never answers', async () => {
    const endpointOf = (port: number) => ({ ...process.env, AWS_ENDPOINT_URL_S3: `http://127.0.0.1:${port}` });
    const away = await S3ObjectStore.open({ bucket: 'b', prefix: '' }, endpointOf(1));
    expect(await failure(away.get('x'))).toMatch(/object x in bucket b at http:\/\/127\.0\.0\.1:1.*ECONNREFUSED/);
    const silent = createServer(() => {}).listen(0, '127.0.0.1');
    try {
      await new Promise((resolve) => silent.once('listening', resolve));
      const { port } = silent.address() as { port: number };
      const timeouts = { connectMs: 500, requestMs: 300 };
      const hung = await S3ObjectStore.open({ bucket: 'b', prefix: '' }, endpointOf(port), timeouts);
      expect(await failure(hung.get('x'))).toMatch(/no answer in time/);
    } finally {
      silent.close();
    }
  });
});

it('a page of more than 1,000 keys is followed by the next', async () => {
  const store = await open();
  const keys = Array.from({ length: 1_100 }, (_, i) => `many/${String(i).padStart(5, '0')}`);
  for (let i = 0; i < keys.length; i += 50) {
    await Promise.all(keys.slice(i, i + 50).map((key) => store.put(key, new Uint8Array(1))));
  }
  expect((await store.list('many/')).map(({ key }) => key)).toEqual(keys);
}, 240_000);

// Last: this server makes new buckets only half a minute after that.
describe('the gateway is killed', () => {
  let store: S3ObjectStore;
  beforeAll(async () => {
    store = await open();
  });

  it('in the middle of uploads: each object is there whole, or not there', async () => {
    const random = new SeededRandom(1);
    const objects = Array.from({ length: 30 }, (_, i) => {
      const bytes = new Uint8Array(200_000 + random.below(3_000_000));
      random.fill(bytes);
      return { key: layerKey(i), bytes };
    });
    const results = Promise.allSettled(objects.map(({ key, bytes }) => store.put(key, bytes)));
    await ceph.restartGateway();
    for (const [i, result] of (await results).entries()) {
      const { key, bytes } = objects[i]!;
      const found = await store.get(key);
      if (result.status === 'fulfilled') expect(found).not.toBeNull();
      else expect(result.reason).toMatchObject({ kind: 'unavailable', data: { file: key } });
      if (found !== null) expect(Buffer.compare(found.bytes, bytes)).toBe(0);
    }
  }, 240_000);

  it('in the middle of downloads: what comes is right, or an error', async () => {
    const bytes = new Uint8Array(8_000_000).map((_, i) => i % 251);
    await store.put('large', bytes);
    const reads = Array.from({ length: 20 }, () => store.get('large').then((found) => found!.bytes));
    const settled = Promise.allSettled(reads);
    await ceph.restartGateway();
    for (const result of await settled) {
      if (result.status === 'fulfilled') expect(Buffer.compare(result.value, bytes)).toBe(0);
      else expect(result.reason).toMatchObject({ kind: 'unavailable' });
    }
    expect(Buffer.compare((await store.get('large'))!.bytes, bytes)).toBe(0);
  }, 240_000);
});
