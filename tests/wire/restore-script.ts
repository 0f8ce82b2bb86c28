/** A script in the form that pg_dump of PostgreSQL 15 writes: settings, schema, types, functions, COPY blocks, constraints, a view. */
export function restoreScript(orders: number): string {
  const customers = Array.from({ length: 7 }, (_, index) => `${index + 1}\tCustomer ${index + 1}\t\\N\t{a,"b c"}`);
  const rows = Array.from(
    { length: orders },
    (_, index) => `${index + 1}\t${(index % 7) + 1}\t1.00\topen\tline\\nbreak \\\\ ${index}`,
  );
  return `
SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
CREATE SCHEMA shop;
ALTER SCHEMA shop OWNER TO postgres;
CREATE TYPE shop.state AS ENUM ('open', 'paid');
CREATE FUNCTION shop.touch() RETURNS trigger LANGUAGE plpgsql AS $$begin new.note := new.note || '!'; return new; end$$;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE shop.customers (id integer NOT NULL, name text NOT NULL, email text, tags text[]);
CREATE SEQUENCE shop.customers_id_seq AS integer START WITH 1 INCREMENT BY 1 NO MINVALUE NO MAXVALUE CACHE 1;
ALTER SEQUENCE shop.customers_id_seq OWNED BY shop.customers.id;
ALTER TABLE ONLY shop.customers ALTER COLUMN id SET DEFAULT nextval('shop.customers_id_seq'::regclass);
CREATE TABLE shop.orders (id integer NOT NULL, customer_id integer, amount numeric(10,2), state shop.state, note text);
CREATE VIEW shop.order_totals AS SELECT orders.customer_id, sum(orders.amount) AS total FROM shop.orders GROUP BY orders.customer_id;
COPY shop.customers (id, name, email, tags) FROM stdin;
${customers.join('\n')}
\\.


COPY shop.orders (id, customer_id, amount, state, note) FROM stdin;
${rows.join('\n')}
\\.


SELECT pg_catalog.setval('shop.customers_id_seq', 7, true);
ALTER TABLE ONLY shop.customers ADD CONSTRAINT customers_pkey PRIMARY KEY (id);
ALTER TABLE ONLY shop.orders ADD CONSTRAINT orders_pkey PRIMARY KEY (id);
CREATE INDEX orders_customer ON shop.orders USING btree (customer_id);
CREATE TRIGGER touched BEFORE UPDATE ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.touch();
ALTER TABLE ONLY shop.orders ADD CONSTRAINT orders_customer_id_fkey FOREIGN KEY (customer_id) REFERENCES shop.customers(id);
`;
}
