/**
 * A repository whose truth is in a bucket of a real S3 server, used by its command line.
 *
 * Must hold: what was committed is there after the gateway was killed in the middle of writes, after the pageserver was killed and its disk wiped, and in
 * another repository that attaches the tenant; the one that had it then harms nothing; scrub finds nothing damaged, and what is damaged by hand.
 */
import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { DeleteObjectCommand, GetObjectCommand, ListObjectsV2Command, PutObjectCommand } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Ceph } from '../support/ceph.ts';
import { RepositoryRig } from '../support/repository-rig.ts';

let ceph: Ceph;
let bucket: string;
let previous: NodeJS.ProcessEnv;
const first = new RepositoryRig();
const second = new RepositoryRig();

beforeAll(async () => {
  ceph = await Ceph.start();
  previous = { ...process.env };
  Object.assign(process.env, ceph.env);
  bucket = await ceph.newBucket();
  await first.ok('init', '--remote-storage', `s3://${bucket}/team`);
  first.putTemplate();
  await first.ok('start');
  await first.ok('tenant', 'create', '--set-default');
  await first.endpoint('main');
}, 240_000);

afterAll(async () => {
  await first.close();
  await second.close();
  process.env = previous;
  await ceph?.stop();
});

const question = 'select count(*)::int as n, sum(hashtext(v))::text as h from t';
const keys = async (): Promise<string[]> => {
  const { Contents = [] } = await ceph.client().send(new ListObjectsV2Command({ Bucket: bucket, Prefix: 'team/' }));
  return Contents.map(({ Key }) => Key!);
};
const tenantOf = async (rig: RepositoryRig) =>
  (JSON.parse(await rig.ok('tenant', 'list', '--json')) as { tenantId: string }[])[0]!.tenantId;

describe('a repository in a bucket', () => {
  let answer: unknown;

  it('keeps what was committed while the gateway is killed and comes back', async () => {
    const client = await first.connect('main');
    await client.query('create table t (id int primary key, v text)');
    const writes = (async () => {
      for (let i = 0; i < 40; i++) {
        await client.query(
          `insert into t select g, repeat(md5(g::text), 30) from generate_series(${i * 500}, ${i * 500 + 499}) g`,
        );
        if (i % 10 === 9) await first.ok('timeline', 'compact', '--branch-name', 'main');
      }
    })();
    await ceph.restartGateway();
    await writes;
    await first.ok('timeline', 'compact', '--branch-name', 'main', '--force');
    answer = (await client.query(question)).rows;
    expect(answer).toMatchObject([{ n: 20_000 }]);
  }, 300_000);

  it('is whole after a kill and with an empty disk', async () => {
    const client = await first.connect('main');
    await client.query("insert into t values (-1, 'not in a layer yet')");
    answer = (await client.query(question)).rows;
    await first.ok('endpoint', 'stop', 'main');
    await first.ok('pageserver', 'stop', '--mode', 'immediate');
    const tenants = join(first.dir, 'pageserver_1/tenants');
    expect(readdirSync(tenants).length).toBe(1);
    rmSync(tenants, { recursive: true });
    await first.ok('pageserver', 'start');
    await first.ok('endpoint', 'start', 'main');
    expect((await (await first.connect('main')).query(question)).rows).toEqual(answer);
    expect(await first.ok('scrub')).toMatch(/\n0 missing or damaged;/);
  }, 240_000);

  it('is attached by another pageserver; the one that had it is fenced off and harms nothing', async () => {
    const tenant = await tenantOf(first);
    await first.ok('timeline', 'compact', '--branch-name', 'main', '--force');
    await second.ok('init', '--remote-storage', `s3://${bucket}/team`);
    second.putTemplate();
    await second.ok('start');
    expect(JSON.parse(await second.ok('tenant', 'list', '--json'))).toEqual([]);
    await second.ok('tenant', 'attach', '--tenant-id', tenant);
    await second.endpoint('copy');
    expect((await (await second.connect('copy')).query(question)).rows).toEqual(answer);
    // The first one does not know yet.
    const stale = await first.connect('main');
    await stale.query("update t set v = v || 'x'").catch(() => {});
    expect(await first.refused('timeline', 'compact', '--branch-name', 'main', '--force')).toMatch(
      /attached to pageserver/,
    );
    await second.ok('timeline', 'compact', '--branch-name', 'main', '--force');
    await second.ok('tenant', 'config', '-c', 'pitr_interval:0', '-c', 'gc_horizon:0');
    await second.ok('timeline', 'gc', '--branch-name', 'main');
    expect((await (await second.connect('copy')).query(question)).rows).toEqual(answer);
    await first.ok('endpoint', 'stop', 'main');
    await first.ok('stop');
    // At a restart it does not take the tenant back.
    await first.ok('start');
    expect(JSON.parse(await first.ok('tenant', 'list', '--json'))).toEqual([]);
    expect(await second.ok('scrub')).toMatch(/\n0 missing or damaged;/);
    await first.ok('stop');
  }, 240_000);

  it('names objects that are missing or damaged, in scrub and by SQL, and reads of other branches go on', async () => {
    await second.ok('timeline', 'create', '--branch-name', 'empty');
    const list = JSON.parse(await second.ok('timeline', 'list', '--json')) as {
      branchName: string;
      timelineId: string;
    }[];
    const mainId = list.find(({ branchName }) => branchName === 'main')!.timelineId;
    await second.ok('endpoint', 'stop', 'copy');
    await second.ok('stop');
    const { problems, garbage } = JSON.parse(await second.ok('scrub', '--json')) as {
      problems: unknown[];
      garbage: { key: string }[];
    };
    expect(problems).toEqual([]);
    // The stale one has left some, which are nobody's.
    const waste = new Set(garbage.map(({ key }) => `team/${key}`));
    const layers = (await keys()).filter((key) => key.includes('__') && !waste.has(key) && key.includes(mainId));
    expect(layers.length).toBeGreaterThan(0);
    const client = ceph.client();
    const objects = new Map<string, Uint8Array>();
    for (const Key of layers) {
      const { Body } = await client.send(new GetObjectCommand({ Bucket: bucket, Key }));
      objects.set(Key, await Body!.transformToByteArray());
    }
    const put = async (Key: string, Body: Uint8Array | null) => {
      if (Body === null) await client.send(new DeleteObjectCommand({ Bucket: bucket, Key }));
      else await client.send(new PutObjectCommand({ Bucket: bucket, Key, Body }));
    };
    /** Returns which layers are damaged. */
    const harm = async (damage: (bytes: Uint8Array) => Uint8Array | null): Promise<string[]> => {
      const damaged: string[] = [];
      for (const [key, bytes] of objects) {
        const changed = damage(bytes);
        await put(key, changed);
        if (changed !== bytes) damaged.push(key.slice('team/'.length));
      }
      const { code, out } = await second.run('scrub');
      expect(code).toBe(1);
      expect(damaged.length).toBeGreaterThan(0);
      for (const key of damaged) expect(out).toContain(`DAMAGED ${key}`);
      rmSync(join(second.dir, 'pageserver_1/tenants'), { recursive: true, force: true });
      await second.ok('start');
      return damaged;
    };
    const namesOne = (damaged: readonly string[]) => new RegExp(damaged.join('|'));
    const goesOn = async () => expect(await second.sql('other', 'select 1 as one')).toEqual([{ one: 1 }]);

    // The table's pages are the last ones of its database, and most of it.
    const flipped = await harm((bytes) => {
      if (bytes.length < 1_000_000) return bytes;
      const [from, to] = [bytes.length * 0.8, bytes.length * 0.9];
      return bytes.map((byte, i) => (i >= from && i < to && i % 4000 === 0 ? byte ^ 4 : byte));
    });
    await second.ok('endpoint', 'start', 'copy');
    const failed = await second.sql('copy', question).catch((error: unknown) => error);
    expect(failed).toMatchObject({ code: '58030', detail: expect.stringMatching(namesOne(flipped)) });
    expect((failed as { detail: string }).detail).toContain(mainId);
    await second.endpoint('other', '--branch-name', 'empty');
    await goesOn();
    // What the bucket has right again is read, though the disk had it damaged.
    for (const [key, bytes] of objects) await put(key, bytes);
    expect(await second.sql('copy', question)).toEqual(answer);
    await second.ok('stop');

    for (const damage of [(bytes: Uint8Array) => bytes.slice(0, 5000), () => null]) {
      const damaged = await harm(damage);
      expect(await second.refused('endpoint', 'start', 'copy')).toMatch(namesOne(damaged));
      await second.ok('endpoint', 'start', 'other');
      await goesOn();
      await second.ok('stop');
    }
    for (const [Key, Body] of objects) await client.send(new PutObjectCommand({ Bucket: bucket, Key, Body }));
  }, 400_000);

  it('whose bucket vanishes goes on with what is here, loses no commit, and starts again when it is back', async () => {
    const gone = new RepositoryRig();
    try {
      const own = await ceph.newBucket();
      await gone.ok('init', '--remote-storage', `s3://${own}/team`);
      gone.putTemplate();
      await gone.ok('start');
      await gone.ok('tenant', 'create', '--set-default');
      await gone.endpoint('main');
      const client = await gone.connect('main');
      await client.query('create table t as select g from generate_series(1, 5000) g');
      await gone.ok('timeline', 'compact', '--branch-name', 'main', '--force');
      await ceph.killGateway();
      for (let i = 0; i < 20; i++) await client.query(`insert into t values (${-i})`);
      expect((await client.query('select count(*)::int as n from t')).rows).toEqual([{ n: 5020 }]);
      await gone.ok('endpoint', 'stop', 'main');
      // What the pageserver has on its disk serves a compute with an empty cache.
      await gone.ok('endpoint', 'start', 'main');
      expect(await gone.sql('main', 'select count(*)::int as n from t')).toEqual([{ n: 5020 }]);
      await gone.ok('endpoint', 'stop', 'main');
      await gone.ok('pageserver', 'stop', '--mode', 'immediate');
      expect(await gone.refused('pageserver', 'start')).toMatch(new RegExp(`bucket ${own} at http.*ECONNREFUSED`));
      await ceph.restartGateway();
      await gone.ok('pageserver', 'start');
      await gone.ok('endpoint', 'start', 'main');
      expect(await gone.sql('main', 'select count(*)::int as n from t')).toEqual([{ n: 5020 }]);
    } finally {
      await gone.close();
    }
  }, 240_000);

  it('that is none is refused', async () => {
    const none = new RepositoryRig();
    try {
      expect(await none.refused('init', '--remote-storage', 's3://no-such-bucket')).toMatch(
        /bucket no-such-bucket .*does not exist/,
      );
      expect(await none.refused('init', '--remote-storage', 'ftp://x')).toMatch(/s3:\/\/bucket\/prefix/);
    } finally {
      await none.close();
    }
  }, 60_000);
});
