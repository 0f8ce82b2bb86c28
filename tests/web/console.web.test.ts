/**
 * The console as somebody uses it, from the real console server over a real repository: with the mouse, with the keyboard alone, with another writer on
 * the branch, and with the server gone and back.
 */
import type { Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { WebRig } from './support/web-rig.ts';

let rig: WebRig;
let page: Page;
const problems: string[] = [];
beforeAll(async () => {
  rig = await WebRig.start();
});
afterAll(() => rig?.close());
beforeEach(async () => {
  page = await (await rig.context()).newPage();
  page.on('pageerror', (error) => problems.push(`${error.message}\n${error.stack}`));
  await page.goto(`${rig.server}/`);
  await page.waitForSelector('[role=treeitem]');
});
afterEach(async () => {
  await page.context().close();
  expect(problems.splice(0)).toEqual([]);
});

const row = (key: string) => page.locator(`[data-key="${key}"]`);
const opened = (key: string) => page.waitForSelector(`[data-key="${key}"][aria-selected=true]`);
const ready = () => page.waitForSelector('text=Results appear here.');

async function createBranch(name: string, place: 'server' | 'local', from = 'server:main'): Promise<void> {
  await page.getByRole('button', { name: 'New branch' }).click();
  await page.getByLabel('Name').fill(name);
  await page.getByLabel('Starts from').selectOption(from);
  await page.locator(`dialog input[value=${place}]`).check();
  await page.getByRole('button', { name: 'Create' }).click();
  await opened(`${place}:${name}`);
  await ready();
}

/** Starts it; its outcome is waited for by who knows it. */
async function run(sql: string): Promise<void> {
  await page.locator('.cm-content').focus();
  await page.keyboard.press('Control+a');
  await page.keyboard.insertText(sql);
  await page.keyboard.press('Control+Enter');
}

const cells = (): Promise<string[]> => page.getByRole('gridcell').allTextContents();

async function focusedCell() {
  const id = await page.getByRole('grid').getAttribute('aria-activedescendant');
  return page.locator(`[id="${id}"]`);
}

/** The cell with the focus, and that all of it is in sight. */
async function expectFocused(text: string): Promise<void> {
  const cell = await focusedCell();
  expect(await cell.textContent()).toBe(text);
  const [outer, inner] = await Promise.all([page.getByRole('grid').boundingBox(), cell.boundingBox()]);
  expect(inner!.x).toBeGreaterThanOrEqual(outer!.x);
  expect(inner!.x + inner!.width).toBeLessThanOrEqual(outer!.x + outer!.width + 1);
  expect(inner!.y).toBeGreaterThanOrEqual(outer!.y);
  expect(inner!.y + inner!.height).toBeLessThanOrEqual(outer!.y + outer!.height + 1);
}

describe('the console', () => {
  it('makes a branch, writes to it, and an endpoint sees the rows', async () => {
    await createBranch('work', 'server');
    await run(
      'create table t (id int, name text); insert into t values (1, $$Ada$$), (2, null); select * from t order by id',
    );
    await page.getByRole('tab', { name: '3: 2 rows' }).waitFor();
    expect(await cells()).toEqual(['1', 'Ada', '2', 'NULL']);
    expect(await page.locator('.bar').textContent()).toMatch(/pages: [\d,]+ cache, 0 tab, [\d,]+ server/);
    await rig.repository.ok('endpoint', 'create', 'work', '--branch-name', 'work');
    await rig.repository.ok('endpoint', 'start', 'work');
    expect(await rig.repository.sql('work', 'select count(*)::int as n from t')).toEqual([{ n: 2 }]);
    // The endpoint has taken over; the console says so.
    await run('insert into t values (3)');
    await page.waitForSelector('text=this endpoint was fenced');
    await rig.repository.ok('endpoint', 'stop', 'work', '--destroy');
  });

  it('shows an error where it is', async () => {
    await createBranch('errors', 'server');
    await run('select 1;\nselect nonsense\nfrom pg_class');
    await page.getByRole('alert').filter({ hasText: 'column "nonsense" does not exist' }).waitFor();
    expect(await page.locator('.cm-error-mark').textContent()).toBe('nonsense');
    expect(await page.getByRole('alert').textContent()).toContain('SQLSTATE 42703');
  });

  it('shows values as PostgreSQL writes them, also in a wide result and a long one', async () => {
    await createBranch('values', 'server');
    await run(`select timestamptz '2026-01-31 12:00:00.123456+00' at time zone 'UTC' as at, 12345678901234567890.50::numeric as n,
      '{"b": 1,  "a": [1.0]}'::json as doc, decode('00ff', 'hex') as bytes, array['a,b', null] as list, 'infinity'::date as never, '' as nothing`);
    await page.getByRole('gridcell', { name: 'infinity' }).waitFor();
    expect(await cells()).toEqual([
      '2026-01-31 12:00:00.123456',
      '12345678901234567890.50',
      '{"b": 1,  "a": [1.0]}',
      '\\x00ff',
      '{"a,b",NULL}',
      'infinity',
      '',
    ]);
    // What the keyboard goes to is brought into sight, across and down; more rows than an element can be high.
    await run(`select ${Array.from({ length: 40 }, (_, i) => `${1000 + i} as column_${i}`).join(', ')}`);
    await page.getByRole('gridcell', { name: '1000' }).waitFor();
    await page.getByRole('grid').focus();
    await page.keyboard.press('End');
    await expectFocused('1039');
    await run('select g from generate_series(1, 1500000) g');
    await page.waitForSelector('text=1,500,000 rows');
    await page.getByRole('grid').evaluate((box) => box.scrollTo({ top: box.scrollHeight }));
    await page.getByRole('gridcell', { name: '1500000', exact: true }).click();
    await page.keyboard.press('ArrowUp');
    await expectFocused('1499999');
    await page.keyboard.press('PageUp');
    const above = Number(await (await focusedCell()).textContent());
    expect(above).toBeGreaterThan(1_499_900);
    await expectFocused(String(above));
  });

  it('stops a statement that would never end; what was committed before is there', async () => {
    await createBranch('endless', 'local');
    await run('create table e (id int); insert into e values (1); select 1 as done');
    await page.getByRole('tab', { name: '3: 1 row' }).waitFor();
    const endless = 'insert into e select 2; do $$ begin loop end loop; end $$';
    await run(endless);
    await page.getByRole('button', { name: 'Stop' }).click();
    await page.waitForSelector('text=Stopped after');
    await run('select count(*) as kept from e');
    await page.getByRole('gridcell', { name: '1', exact: true }).waitFor();
    // Another branch waits for the statement, and says so, until it is stopped.
    await run(endless);
    await row('server:main').click();
    await page.waitForSelector('text=opens when the statement that runs on endless has ended');
    await page.getByRole('button', { name: 'Stop' }).click();
    await opened('server:main');
    await page.waitForSelector('text=Stopped after');
  });

  it('takes a branch over from an endpoint, if asked', async () => {
    await rig.repository.ok('timeline', 'branch', '--branch-name', 'taken');
    await rig.repository.ok('endpoint', 'create', 'taken', '--branch-name', 'taken');
    await rig.repository.ok('endpoint', 'start', 'taken');
    await rig.repository.sql('taken', 'create table o (id int)');
    await row('server:taken').click();
    await page.waitForSelector('text=Endpoint "taken" writes to this branch');
    await page.getByRole('button', { name: 'Take over' }).click();
    await page.waitForSelector('text=Endpoint "taken" writes to this branch', { state: 'detached' });
    await ready();
    await run('insert into o values (1); select count(*) as mine from o');
    await page.getByRole('gridcell', { name: '1', exact: true }).waitFor();
    await rig.repository.ok('endpoint', 'stop', 'taken', '--destroy');
  });

  it('goes back in the history of a branch of the tab', async () => {
    await createBranch('diary', 'local', '');
    await run('create table p (id int); insert into p values (1); select 1 as done');
    await page.getByRole('tab', { name: '3: 1 row' }).waitFor();
    await run('delete from p; select 2 as done');
    await page.getByRole('tab', { name: '2: 1 row' }).waitFor();
    // Of a branch of it the history begins where its parent's does.
    await createBranch('page', 'local', 'local:diary');
    await run('insert into p values (2); select 3 as done');
    await page.getByRole('tab', { name: '2: 1 row' }).waitFor();
    await page.getByRole('tab', { name: 'History' }).click();
    await page.getByRole('slider', { name: 'Moment' }).waitFor();
    // The insert into the branch, the delete, the first insert.
    await page.getByRole('button', { name: 'Earlier commit' }).click();
    await page.getByRole('button', { name: 'Earlier commit' }).click();
    await page.getByRole('button', { name: 'Look at it' }).click();
    await page.waitForSelector('text=You are looking at diary');
    await ready();
    await run('select count(*) as then from p');
    await page.getByRole('gridcell', { name: '1', exact: true }).waitFor();
    await page.getByRole('tab', { name: 'History' }).click();
    await page.locator('.history select').selectOption('local:page');
    await page.getByRole('slider', { name: 'Moment' }).waitFor();
    await page.getByRole('button', { name: 'Earlier commit' }).click();
    await page.getByRole('button', { name: 'Branch from here' }).click();
    await page.getByLabel('Name').fill('torn');
    await page.getByRole('button', { name: 'Create' }).click();
    await opened('local:torn');
    await page.getByRole('tab', { name: 'SQL' }).click();
    await ready();
    await run('select count(*) as now from p');
    await page.getByRole('gridcell', { name: '0', exact: true }).waitFor();
  });

  it('opens a branch that an endpoint writes to for reading, and fences nobody', async () => {
    await rig.repository.endpoint('main');
    await rig.repository.sql('main', 'create table if not exists mine (id int)');
    await page.reload();
    await row('server:main').click();
    await page.waitForSelector('text=Endpoint "main" writes to this branch');
    await run('insert into mine values (1)');
    await page.getByRole('alert').filter({ hasText: 'read-only transaction' }).waitFor();
    await rig.repository.sql('main', 'insert into mine values (2)');
    expect(await rig.repository.sql('main', 'select * from mine')).toEqual([{ id: 2 }]);
    await rig.repository.ok('endpoint', 'stop', 'main', '--destroy');
  });

  it('looks at a moment, read-only, and branches from it', async () => {
    await createBranch('past', 'server');
    await run('create table p (id int); insert into p values (1); select 1 as done');
    await page.getByRole('tab', { name: '3: 1 row' }).waitFor();
    await run('delete from p; select 2 as done');
    await page.getByRole('tab', { name: '2: 1 row' }).waitFor();
    await page.getByRole('tab', { name: 'History' }).click();
    await page.locator('.history select').selectOption('server:past');
    await page.getByRole('slider', { name: 'Moment' }).waitFor();
    // The last commit is the delete, the one before it the insert.
    await page.getByRole('button', { name: 'Earlier commit' }).click();
    await page.getByRole('button', { name: 'Look at it' }).click();
    await page.waitForSelector('text=You are looking at');
    await ready();
    await run('select count(*) as then from p');
    await page.getByRole('gridcell', { name: '1', exact: true }).waitFor();
    await run('drop table if exists p');
    await page.getByRole('alert').filter({ hasText: 'read-only transaction' }).waitFor();
    await page.getByRole('tab', { name: 'History' }).click();
    await page.getByRole('slider', { name: 'Moment' }).waitFor();
    await page.getByRole('button', { name: 'Earlier commit' }).click();
    await page.getByRole('button', { name: 'Branch from here' }).click();
    await page.getByLabel('Name').fill('rescued');
    await page.getByRole('button', { name: 'Create' }).click();
    await opened('server:rescued');
    await page.getByRole('tab', { name: 'SQL' }).click();
    await ready();
    await run('insert into p values (3); select count(*) as now from p');
    await page.getByRole('gridcell', { name: '2', exact: true }).waitFor();
  });

  it('compares the schema and the rows of two branches', async () => {
    await createBranch('left', 'server');
    await run('create table d (id int primary key); insert into d select generate_series(1, 7); select 1 as done');
    await page.getByRole('tab', { name: '3: 1 row' }).waitFor();
    await createBranch('right', 'server', 'server:left');
    await run('alter table d add column note text; delete from d where id > 5; select 1 as done');
    await page.getByRole('tab', { name: '3: 1 row' }).waitFor();
    await page.getByRole('tab', { name: 'Compare' }).click();
    await page.getByRole('button', { name: 'Compare' }).click();
    await page.waitForSelector('text=left → right: 1 difference');
    const diff = await page.locator('.diff section').textContent();
    expect(diff).toContain('table public.d');
    expect(diff).toContain('7 → 5 rows (−2)');
    expect(diff).toContain('+ note text');
  });

  it('pushes a branch of the tab to the server', async () => {
    await createBranch('here', 'local');
    await run('create table h as select generate_series(1, 10) as id; select count(*) from h');
    await page.getByRole('tab', { name: '2: 1 row' }).waitFor();
    await page.getByRole('button', { name: 'Push' }).click();
    await page.getByLabel('Name on the server').fill('there');
    await page.locator('dialog').getByRole('button', { name: 'Push' }).click();
    await row('server:there').waitFor();
    await rig.repository.ok('endpoint', 'create', 'there', '--branch-name', 'there');
    await rig.repository.ok('endpoint', 'start', 'there');
    expect(await rig.repository.sql('there', 'select count(*)::int as n from h')).toEqual([{ n: 10 }]);
    await rig.repository.ok('endpoint', 'stop', 'there', '--destroy');
  });

  it('resets and deletes a branch', async () => {
    await createBranch('doomed', 'server');
    await run('create table gone (id int); select 1 as done');
    await page.getByRole('tab', { name: '2: 1 row' }).waitFor();
    await page.getByRole('button', { name: 'Reset' }).click();
    await page.locator('dialog').getByRole('button', { name: 'Reset' }).click();
    await page.waitForSelector('[data-key^="server:doomed_old_"]');
    await row('server:doomed').click();
    await ready();
    await run('select to_regclass($$gone$$) as table');
    await page.getByRole('gridcell', { name: 'NULL' }).waitFor();
    await page.getByRole('button', { name: 'Delete' }).click();
    await page.locator('dialog').getByRole('button', { name: 'Delete' }).click();
    await row('server:doomed').waitFor({ state: 'detached' });
  });

  it('says so when the branch that is open was reset elsewhere', async () => {
    await createBranch('moving', 'server');
    await run('create table m (id int); select 1 as done');
    await page.getByRole('tab', { name: '2: 1 row' }).waitFor();
    await rig.repository.ok('timeline', 'reset', '--branch-name', 'moving');
    await page.waitForSelector('text=was reset elsewhere: you are still on what it was, now "moving_old_');
    await page.getByRole('button', { name: 'Open moving' }).click();
    await page.waitForSelector('text=was reset elsewhere', { state: 'detached' });
    await ready();
    await run('select to_regclass($$m$$) as table');
    await page.getByRole('gridcell', { name: 'NULL' }).waitFor();
  });

  it('refuses to delete what others need, and says why', async () => {
    await row('server:main').focus();
    await page.keyboard.press('Delete');
    await page.locator('dialog').getByRole('button', { name: 'Delete' }).click();
    await page.locator('dialog').getByRole('alert').filter({ hasText: 'branched from it' }).waitFor();
    await page.keyboard.press('Escape');
    await page.locator('dialog').waitFor({ state: 'detached' });
    expect(await row('server:main').count()).toBe(1);
  });

  it('is used with the keyboard alone', async () => {
    await row('server:main').focus();
    await page.keyboard.press('n');
    await page.keyboard.type('keys');
    await page.keyboard.press('Enter');
    await opened('server:keys');
    await ready();
    await page.keyboard.press('Control+b');
    await page.waitForFunction(() => document.activeElement?.getAttribute('role') === 'treeitem');
    await page.keyboard.press('Home');
    await page.waitForFunction(() => document.activeElement?.getAttribute('data-key') === 'server:main');
    await page.keyboard.press('ArrowDown');
    await page.waitForFunction(() => document.activeElement?.getAttribute('data-key') !== 'server:main');
    await page.getByRole('tab', { name: 'SQL' }).focus();
    await page.keyboard.press('ArrowRight');
    expect(await page.getByRole('tab', { name: 'History' }).getAttribute('aria-selected')).toBe('true');
    await page.keyboard.press('ArrowLeft');
    await page.locator('.cm-content').focus();
    await page.keyboard.press('Control+a');
    await page.keyboard.insertText('select 6 * 7 as answer');
    await page.keyboard.press('Control+Enter');
    await page.getByRole('gridcell', { name: '42' }).waitFor();
  });

  it('says that the server is away, and goes on when it is back', async () => {
    await createBranch('away', 'local');
    await run('create table k (id int); insert into k values (1); select 1 as done');
    await page.getByRole('tab', { name: '3: 1 row' }).waitFor();
    await rig.stopConsole();
    await page.waitForSelector('.status.away');
    // What is in the tab works on.
    await run('insert into k values (2); select count(*) as left_over from k');
    await page.getByRole('gridcell', { name: '2', exact: true }).waitFor();
    await rig.startConsole();
    await page.waitForSelector('.status:not(.away)');
    expect(await row('server:main').count()).toBe(1);
  });

  it('fits a narrow screen: nothing is wider than it', async () => {
    await page.setViewportSize({ width: 390, height: 800 });
    for (const view of ['SQL', 'History', 'Compare', 'Storage']) {
      await page.getByRole('tab', { name: view }).click();
      const wide = await page.evaluate(() => document.documentElement.scrollWidth);
      expect(wide).toBeLessThanOrEqual(390);
    }
    await page.getByRole('button', { name: 'Branches' }).click();
    await row('server:main').waitFor({ state: 'visible' });
  });
});
