CREATE ROLE "{{name}}" WITH LOGIN NOINHERIT PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE app_owner;
ALTER ROLE "{{name}}" SET role = 'app_owner';
