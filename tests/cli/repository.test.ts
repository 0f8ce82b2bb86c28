/**
 * The repository's settings on disk, its branch names and endpoints, without any process.
 *
 * Must hold: two commands at once lose nothing of each other; settings that are damaged are named, not overwritten; a name or port that is taken, a
 * name that cannot be one, and a name that is not there are refused with what to do.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type TenantId, type TimelineId, tenantId, timelineId } from '../../engine/model/ids.ts';
import { parseLsn } from '../../engine/model/lsn.ts';
import { checkLsn, checkNotInFuture, lsnOfTimestamp } from '../../server/control-plane/branch-point.ts';
import { branchesOf, chooseTenant, nameBranch, resolveBranch } from '../../server/control-plane/branches.ts';
import {
  checkNoOtherWriter,
  createEndpoint,
  endpointPidFile,
  findEndpoint,
  listEndpoints,
  statusOf,
} from '../../server/control-plane/endpoints.ts';
import { Repository, repositoryDir } from '../../server/control-plane/repository.ts';
import { claimPidFile } from '../../server/process/pid-file.ts';

const tenant: TenantId = tenantId('a'.repeat(32));
const other: TenantId = tenantId('b'.repeat(32));
const timeline = (digit: string): TimelineId => timelineId(digit.repeat(32));

let parent: string;
let dir: string;
beforeEach(() => {
  parent = mkdtempSync(join(tmpdir(), 'pagelite-repository-'));
  dir = join(parent, '.pagelite');
});
afterEach(() => rmSync(parent, { recursive: true }));

describe('a repository', () => {
  it('is .pagelite of the current folder, or PAGELITE_REPO_DIR', () => {
    expect(repositoryDir({})).toBe(join(process.cwd(), '.pagelite'));
    expect(repositoryDir({ PAGELITE_REPO_DIR: '/srv/db' })).toBe('/srv/db');
  });

  it('is made once', async () => {
    expect(() => Repository.open(dir)).toThrow(/no repository in .*\. Make one with: pagelite init/);
    await Repository.init(dir);
    const text = readFileSync(join(dir, 'config.json'), 'utf8');
    await expect(Repository.init(dir)).rejects.toMatchObject({ kind: 'invalid', message: /is a repository already/ });
    expect(readFileSync(join(dir, 'config.json'), 'utf8')).toBe(text);
  });

  it('names a damaged file and what is wrong in it', async () => {
    const repository = await Repository.init(dir);
    const config = JSON.parse(readFileSync(repository.configFile, 'utf8'));
    writeFileSync(repository.configFile, '{"version": 1,');
    expect(() => Repository.open(dir)).toThrow(/config\.json is not JSON/);
    writeFileSync(
      repository.configFile,
      JSON.stringify({ ...config, pageserver: { id: 1, pgPort: 70000, httpPort: 1 } }),
    );
    expect(() => Repository.open(dir)).toThrow(/pageserver\.pgPort/);
    writeFileSync(repository.configFile, JSON.stringify({ ...config, version: 2 }));
    expect(() => Repository.open(dir)).toThrow(/reads version 1/);
  });

  it('loses nothing of commands that change it at the same time', async () => {
    const repository = await Repository.init(dir);
    const names = Array.from({ length: 20 }, (_, index) => `branch-${index}`);
    await Promise.all(
      names.map((name, index) =>
        repository.exclusively(() =>
          repository.update(async (config) => {
            // Another command would read the settings here, if it could.
            await Promise.resolve();
            nameBranch(config, name, { tenantId: tenant, timelineId: timeline((index % 10).toString()) });
          }),
        ),
      ),
    ).catch((error: unknown) => {
      throw error;
    });
    const found = branchesOf(repository.readConfig(), tenant).map((branch) => branch.name);
    expect(found.toSorted()).toEqual(names.toSorted());
  });

  it('keeps its settings when a change is refused', async () => {
    const repository = await Repository.init(dir);
    const refused = repository.update((config) => {
      config.defaultTenantId = tenant;
      throw new Error('refused');
    });
    await expect(refused).rejects.toThrow('refused');
    expect(repository.readConfig().defaultTenantId).toBeNull();
  });
});

describe('branch names', () => {
  it('belong to a tenant, and timeline ids are names, too', async () => {
    const repository = await Repository.init(dir);
    await repository.update((config) => {
      nameBranch(config, 'main', { tenantId: tenant, timelineId: timeline('1') });
      nameBranch(config, 'main', { tenantId: other, timelineId: timeline('2') });
      nameBranch(config, 'constructor', { tenantId: tenant, timelineId: timeline('3') });
    });
    const config = repository.readConfig();
    expect(resolveBranch(config, tenant, 'main')).toBe(timeline('1'));
    expect(resolveBranch(config, other, 'main')).toBe(timeline('2'));
    expect(resolveBranch(config, tenant, timeline('9'))).toBe(timeline('9'));
    expect(resolveBranch(config, tenant, 'constructor')).toBe(timeline('3'));
    expect(() => resolveBranch(config, other, 'constructor')).toThrow(/no branch "constructor"/);
    expect(() => resolveBranch(config, tenant, 'toString')).toThrow(
      /no branch "toString".*There is: constructor, main/,
    );
    expect(() => nameBranch(config, 'main', { tenantId: tenant, timelineId: timeline('4') })).toThrow(/"main" exists/);
  });

  it.each(['', 'a b', '-x', '../up', 'a/../b', 'f'.repeat(32), 'x'.repeat(129), 'semi;colon', 'new\nline'])(
    '"%s" cannot be one',
    async (name) => {
      const config = (await Repository.init(dir)).readConfig();
      expect(() => nameBranch(config, name, { tenantId: tenant, timelineId: timeline('1') })).toThrow(
        /cannot be the name/,
      );
    },
  );

  it('need a tenant, given or by default', async () => {
    const config = (await Repository.init(dir)).readConfig();
    expect(() => chooseTenant(config, undefined)).toThrow(/no default tenant.*--tenant-id/);
    expect(chooseTenant(config, 'A'.repeat(32))).toBe(tenant);
    expect(chooseTenant({ ...config, defaultTenantId: other }, undefined)).toBe(other);
  });
});

describe('endpoints', () => {
  const wanted = (name: string, more = {}) => ({
    name,
    id: { tenantId: tenant, timelineId: timeline('1') },
    branchName: 'main',
    lsn: null,
    pgPort: null,
    httpPort: null,
    ...more,
  });

  it('get ports of their own, from 55432 on', async () => {
    const repository = await Repository.init(dir);
    const first = await createEndpoint(repository, wanted('main'));
    const second = await createEndpoint(repository, wanted('second'));
    expect(first.config.pgPort).toBeGreaterThanOrEqual(55432);
    expect(second.config.pgPort).not.toBe(first.config.pgPort);
    expect(second.config.pgPort).toBeGreaterThanOrEqual(55432);
    expect(listEndpoints(repository).map(({ name }) => name)).toEqual(['main', 'second']);
    const port = first.config.pgPort;
    await expect(createEndpoint(repository, wanted('third', { pgPort: port }))).rejects.toThrow(/is endpoint "main"'s/);
    await expect(createEndpoint(repository, wanted('main'))).rejects.toThrow(/endpoint "main" exists/);
  });

  it.each(['', '..', 'a/b', '.hidden', 'a b'])('cannot be called "%s"', async (name) => {
    const repository = await Repository.init(dir);
    await expect(createEndpoint(repository, wanted(name))).rejects.toThrow(/cannot be the name of an endpoint/);
    expect(() => findEndpoint(repository, name)).toThrow(/no endpoint/);
  });

  it('that are damaged say so and how to get rid of it', async () => {
    const repository = await Repository.init(dir);
    const { dir: folder } = await createEndpoint(repository, wanted('main'));
    writeFileSync(join(folder, 'endpoint.json'), '{}');
    expect(() => findEndpoint(repository, 'main')).toThrow(/endpoint\.json is damaged: .*Remove its folder/);
  });

  it('write alone to a branch; read-only ones and those of other branches do not count', async () => {
    const repository = await Repository.init(dir);
    const first = await createEndpoint(repository, wanted('first'));
    const rival = await createEndpoint(repository, wanted('rival'));
    const past = await createEndpoint(repository, wanted('past', { lsn: '0/100' }));
    const elsewhere = await createEndpoint(
      repository,
      wanted('elsewhere', { id: { tenantId: tenant, timelineId: timeline('2') } }),
    );
    expect(statusOf(first)).toBe('stopped');
    const running = claimPidFile(endpointPidFile(first.dir));
    expect(statusOf(first)).toBe('running');
    expect(() => checkNoOtherWriter(repository, rival)).toThrow(
      /endpoint "first" writes to branch main already.*--allow-multiple/,
    );
    checkNoOtherWriter(repository, first);
    checkNoOtherWriter(repository, past);
    checkNoOtherWriter(repository, elsewhere);
    running.release();
    checkNoOtherWriter(repository, rival);
    writeFileSync(endpointPidFile(first.dir), '999999999 1 x\n');
    expect(statusOf(first)).toBe('crashed');
  });
});

describe('a place on a branch', () => {
  const extent = { branch: 'feature', startLsn: parseLsn('0/200'), endLsn: parseLsn('0/300'), ancestor: 'main' };

  it('is between its start and its end', () => {
    checkLsn(extent, parseLsn('0/200'));
    checkLsn(extent, parseLsn('0/300'));
    expect(() => checkLsn(extent, parseLsn('0/1FF'))).toThrow(/before the start of branch "feature" at 0\/200.*"main"/);
    expect(() => checkLsn(extent, parseLsn('0/301'))).toThrow(/past the end of branch "feature" at 0\/300/);
  });

  it('can be a time that has come, if there were commits', () => {
    const at = Date.UTC(2026, 0, 31);
    const lsn = parseLsn('0/250');
    expect(lsnOfTimestamp(extent, { kind: 'present', lsn }, at)).toBe(lsn);
    expect(lsnOfTimestamp(extent, { kind: 'future', lsn }, at)).toBe(lsn);
    expect(() => lsnOfTimestamp(extent, { kind: 'past', lsn }, at)).toThrow(
      /no commits that are as old.*"main".*2026-01-31T/,
    );
    expect(() => lsnOfTimestamp(extent, { kind: 'nodata', lsn }, at)).toThrow(/no commits with a time/);
    expect(() => checkNotInFuture(at + 1, at)).toThrow(/in the future/);
    checkNotInFuture(at, at);
  });
});
