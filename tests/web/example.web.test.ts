/** browser/examples/index.html as it is: served by the console server, and copied to a page of somebody else's. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { WebRig } from './support/web-rig.ts';

let rig: WebRig;
beforeAll(async () => {
  rig = await WebRig.start();
});
afterAll(() => rig?.close());

const example = join(import.meta.dirname, '../../browser/examples/index.html');

/** The page asks something itself when it is open. */
const ready = (page: Page) =>
  page.waitForFunction("document.getElementById('answer').textContent.includes('PostgreSQL 18')");

async function ask(page: Page, sql: string): Promise<unknown> {
  await page.fill('#sql', sql);
  await page.evaluate("document.getElementById('answer').textContent = ''");
  await page.click('#run');
  await page.waitForFunction("document.getElementById('answer').textContent !== ''");
  const text = (await page.textContent('#answer')) ?? '';
  return text.startsWith('[') ? JSON.parse(text) : text;
}

describe('the example page', () => {
  it('works where the console server serves it, and on a page of another origin without isolation', async () => {
    const context = await rig.context();
    const served = await context.newPage();
    await served.goto(`${rig.server}/examples/index.html?server=${rig.server}`);
    await ready(served);
    expect(
      await ask(served, 'create table visits (n int); insert into visits values (1); select n from visits'),
    ).toEqual([{ n: 1 }]);
    expect(await ask(served, 'select nonsense')).toBe('column "nonsense" does not exist');
    await served.close();
    const elsewhere = await context.newPage();
    rig.documents.set('/embedded', readFileSync(example, 'utf8'));
    await elsewhere.goto(`${rig.somebody}/embedded?server=${rig.server}`);
    await ready(elsewhere);
    expect(await ask(elsewhere, 'insert into visits values (2); select n from visits order by n')).toEqual([
      { n: 1 },
      { n: 2 },
    ]);
  });

  it('says what is wrong when there is no server', async () => {
    const page = await (await rig.context()).newPage();
    await page.goto(`${rig.server}/examples/index.html?server=http://127.0.0.1:9`);
    await page.waitForFunction("document.getElementById('answer').textContent.includes('Failed')");
  });

  it('is one file with some twenty lines of script', () => {
    const script = /<script type="module">\n([\s\S]*?)<\/script>/.exec(readFileSync(example, 'utf8'))![1]!;
    expect(script.trim().split('\n').length).toBeLessThanOrEqual(20);
  });
});
