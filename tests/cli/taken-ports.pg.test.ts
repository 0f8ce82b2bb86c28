/**
 * Ports that other programs take while the storage starts: after the look whether they are free, before the process listens.
 *
 * Must hold: everything starts, on ports that are all different, and everybody knows where the others are. (Another repository that was made at that moment took
 * the port of a safekeeper; that moved on to the port of the next one, which then could not start.)
 */
import { once } from 'node:events';
import { createServer, type Server } from 'node:net';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { distUrl } from '../support/dist.ts';
import { RepositoryRig } from '../support/repository-rig.ts';

let rig: RepositoryRig;
let thieves: Server[];

beforeEach(() => {
  rig = new RepositoryRig();
  thieves = [];
});
afterEach(async () => {
  for (const thief of thieves) thief.close();
  await rig.close();
});

/** `pagelite start`. The first line of it that has the words of a victim says a port that is then taken, before the process listens there. */
async function startAmongThieves(...victims: string[]): Promise<{ stolen: number[]; lines: string[] }> {
  type Processes = typeof import('../../server/control-plane/storage-processes.ts');
  const { startStorage } = (await import(distUrl('server/control-plane/storage-processes.js').href)) as Processes;
  const repository = await openRepository();
  const stolen = new Map<string, Promise<number>>();
  const lines: string[] = [];
  const hear = (line: string) => {
    lines.push(line);
    const victim = victims.find((words) => line.includes(words) && !stolen.has(words));
    if (victim !== undefined) stolen.set(victim, takeToldPort(line));
  };
  rig.putTemplate();
  await repository.exclusively(() => startStorage(repository, hear));
  rig.keepTemplate();
  expect([...stolen.keys()].sort()).toEqual([...victims].sort());
  return { stolen: await Promise.all(stolen.values()), lines };
}

async function openRepository() {
  type Module = typeof import('../../server/control-plane/repository.ts');
  const { Repository } = (await import(distUrl('server/control-plane/repository.js').href)) as Module;
  return Repository.open(rig.dir);
}

/** Takes the port that the line says a process is about to listen on. */
async function takeToldPort(line: string): Promise<number> {
  const port = Number(/127\.0\.0\.1:(\d+)/.exec(line)![1]);
  const thief = createServer().listen(port, '127.0.0.1');
  thieves.push(thief);
  await once(thief, 'listening');
  return port;
}

async function expectAllServe(stolen: number[]): Promise<void> {
  const { pageserver, safekeepers, console } = (await openRepository()).readConfig();
  const ports = [pageserver, ...safekeepers].flatMap(({ pgPort, httpPort }) => [pgPort, httpPort]);
  expect(new Set([...ports, console.port, ...stolen]).size).toBe(ports.length + 1 + stolen.length);
  for (const { id } of safekeepers) expect(rig.pid({ safekeeper: id })).toBeGreaterThan(0);
  await rig.ok('tenant', 'create', '--set-default');
  await rig.endpoint('main');
  expect(await rig.sql('main', 'select 1 as one')).toEqual([{ one: 1 }]);
  const status = JSON.parse(await rig.ok('safekeeper', 'status', '--json'));
  expect(status).toMatchObject(safekeepers.map(({ id }) => ({ id })));
}

it.each([1, 2, 3])('of safekeeper %i: all three move on, and start', async (victim) => {
  await rig.ok('init', '--num-safekeepers', '3');
  const { stolen, lines } = await startAmongThieves(`sk${victim}'`);
  expect(lines.join('\n')).toContain('all safekeepers move on');
  await expectAllServe(stolen);
});

it('of the pageserver and of an only safekeeper: they move on to ports that nothing else of the repository has', async () => {
  await rig.ok('init');
  // Where each would move on to first is another's: the safekeeper's next port the console's, which is not running, the pageserver's its own second one.
  const repository = await openRepository();
  await repository.update(async ({ safekeepers: [safekeeper], pageserver, console }) => {
    const first = pageserver.pgPort;
    Object.assign(safekeeper!, { pgPort: first, httpPort: first + 2 });
    console.port = first + 1;
    Object.assign(pageserver, { pgPort: first + 3, httpPort: first + 4 });
  });
  const { stolen } = await startAmongThieves('Starting safekeeper', 'Starting pageserver');
  await expectAllServe(stolen);
});
